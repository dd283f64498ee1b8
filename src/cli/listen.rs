//! `posthorn listen`: a receiver on this machine, one line for each request that arrives.

use std::fmt::Write as _;
use std::time::Duration;

use poem::http::StatusCode;
use posthorn_domain::limits::TIMEOUT_MAX;
use posthorn_domain::signature::{SecretKey, SigningSecret};
use posthorn_domain::terminal;

use crate::cli::receiver::{Arrival, Options, Receiver, Verdict};
use crate::cli::{Stop, print_text};

/// Receive webhooks on this machine: print, verify and answer what arrives.
///
/// Point a subscription's `target_url` at it. Every path and method is answered, with 200 unless
/// told otherwise, and with 401 where a signature is wrong.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Port on 127.0.0.1; 0 picks a free one.
    #[arg(long, short, default_value_t = 9000, value_name = "PORT")]
    port: u16,

    /// Answer with this status: 200 to 599. With --fail-first only the failing requests get it.
    #[arg(long, value_name = "STATUS", value_parser = parse_status)]
    status: Option<StatusCode>,

    /// Let so many requests fail (with 500, or what --status says), and succeed from then on.
    #[arg(long, value_name = "COUNT")]
    fail_first: Option<u32>,

    /// Wait so many seconds before each answer; decimals are fine.
    #[arg(long, value_name = "SECONDS", value_parser = parse_delay, default_value = "0")]
    delay: Duration,

    /// Send Retry-After with so many seconds along with each failure. Senders heed it on 429 and
    /// 503: combine it with --status.
    #[arg(long, value_name = "SECONDS")]
    retry_after: Option<u32>,

    /// The subscription's signing secret (`whsec_…`): verifies `webhook-signature`.
    #[arg(long, value_name = "WHSEC", env = "WEBHOOK_SIGNING_SECRET", hide_env_values = true)]
    #[arg(value_parser = SigningSecret::parse)]
    secret: Option<SigningSecret>,

    /// The subscription's `secret_key`: verifies `X-Webhook-Signature-256`.
    #[arg(long, value_name = "KEY", env = "WEBHOOK_SECRET_KEY", hide_env_values = true)]
    #[arg(value_parser = SecretKey::parse)]
    secret_key: Option<SecretKey>,

    /// Leave the payloads out; without it each stands below its line.
    #[arg(long, short)]
    quiet: bool,
}

/// Prints what arrives until it is interrupted.
pub async fn run(args: Args) -> Result<(), Stop> {
    let Args { port, quiet, .. } = args;
    let receiver = Receiver::bind(options(args)).await;
    let receiver = receiver.map_err(|error| Stop::Failed(format!("--port {port}: {error}")))?;
    tokio::select! {
        // Cancel-safe: what is dropped is a wait, or the program's end.
        result = print_all(receiver, quiet) => result,
        _ = tokio::signal::ctrl_c() => Ok(()),
    }
}

fn options(args: Args) -> Options {
    Options {
        port: args.port,
        status: args.status,
        fail_first: args.fail_first,
        delay: args.delay,
        retry_after: args.retry_after,
        signing_secret: args.secret,
        secret_key: args.secret_key,
    }
}

async fn print_all(mut receiver: Receiver, quiet: bool) -> Result<(), Stop> {
    print_text(&format!("listening on http://{}", receiver.address()))?;
    while let Some(arrival) = receiver.next().await {
        print_text(&line(&arrival))?;
        if !quiet && !arrival.payload.is_empty() {
            print_text(&format!("{INDENT}{}", terminal::indented(&arrival.payload, INDENT)))?;
        }
    }
    Ok(())
}

/// In front of each line of a payload: no line of `listen` itself begins so.
const INDENT: &str = "    ";

/// One line: when, what, which delivery, whether it is signed right, and the answer. Whatever the request holds, it is
/// one line, and leaves the terminal alone.
#[must_use]
pub fn line(arrival: &Arrival) -> String {
    let mut line = format!("{} {} {}", arrival.at, arrival.method, arrival.path);
    for (name, value) in
        [("sequence", &arrival.sequence), ("attempt", &arrival.attempt), ("id", &arrival.delivery_id)]
    {
        if let Some(value) = value {
            let _ = write!(line, " {name} {value}");
        }
    }
    let _ = write!(line, " {} bytes", arrival.payload.len());
    match &arrival.verdict {
        Verdict::Unchecked => {}
        Verdict::Verified => line.push_str(" verified"),
        Verdict::Wrong(problem) => {
            let _ = write!(line, " NOT VERIFIED ({problem})");
        }
    }
    let _ = write!(line, " -> {}", arrival.status.as_u16());
    terminal::one_line(&line)
}

fn parse_status(text: &str) -> Result<StatusCode, &'static str> {
    match text.parse() {
        Ok(status @ 200..=599) => StatusCode::from_u16(status).map_err(|_| STATUS_EXPECTED),
        _ => Err(STATUS_EXPECTED),
    }
}

const STATUS_EXPECTED: &str = "expected a status from 200 to 599";

/// Up to the longest time-out a subscription may have, and as long again to be beyond it.
fn parse_delay(text: &str) -> Result<Duration, &'static str> {
    let delay = text.parse().ok().and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    delay.filter(|delay| *delay <= 2 * TIMEOUT_MAX).ok_or("expected seconds from 0 to 240")
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use clap::Parser;
    use posthorn_domain::time::Timestamp;

    use super::*;

    #[derive(Debug, Parser)]
    struct Command {
        #[command(flatten)]
        args: Args,
    }

    fn parse(arguments: &str) -> Result<Args, clap::Error> {
        Command::try_parse_from(format!("listen {arguments}").split_whitespace()).map(|command| command.args)
    }

    #[test]
    fn arguments_are_taken() {
        let args = parse("").unwrap();
        assert_eq!((args.port, args.status, args.fail_first, args.delay), (9000, None, None, Duration::ZERO));
        let args = parse(
            "-p 0 --status 503 --fail-first 2 --delay 0.25 --retry-after 7 --quiet \
             --secret whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw --secret-key s",
        )
        .unwrap();
        assert_eq!((args.port, args.status), (0, Some(StatusCode::SERVICE_UNAVAILABLE)));
        assert_eq!((args.fail_first, args.delay), (Some(2), Duration::from_millis(250)));
        assert_eq!((args.retry_after, args.quiet), (Some(7), true));
        assert!(args.secret.is_some() && args.secret_key.is_some());
    }

    #[test]
    fn wrong_arguments_are_refused() {
        for arguments in [
            "--port 65536",
            "--status 99",
            "--status 101",
            "--status 600",
            "--status ok",
            "--delay -1",
            "--delay 241",
            "--delay NaN",
            "--delay inf",
            "--fail-first -1",
            "--retry-after soon",
            "--secret MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
        ] {
            assert!(parse(arguments).is_err(), "{arguments}");
        }
    }

    #[test]
    fn lines_are_readable() {
        let arrival = Arrival {
            at: Timestamp::from_millis(1_795_598_714_007),
            method: "POST".to_owned(),
            path: "/hook".to_owned(),
            delivery_id: Some("7".to_owned()),
            sequence: Some("42".to_owned()),
            attempt: Some("1".to_owned()),
            payload: Bytes::from_static(b"{}"),
            verdict: Verdict::Verified,
            status: StatusCode::OK,
        };
        let expected =
            "2026-11-25T09:25:14.007Z POST /hook sequence 42 attempt 1 id 7 2 bytes verified -> 200";
        assert_eq!(line(&arrival), expected);
        let wrong = Verdict::Wrong("webhook-signature: signature invalid".to_owned());
        let arrival = Arrival { verdict: wrong, status: StatusCode::UNAUTHORIZED, ..arrival };
        assert!(line(&arrival).ends_with("NOT VERIFIED (webhook-signature: signature invalid) -> 401"));
        let bare = Arrival {
            delivery_id: None,
            sequence: None,
            attempt: None,
            verdict: Verdict::Unchecked,
            status: StatusCode::OK,
            ..arrival
        };
        assert_eq!(line(&bare), "2026-11-25T09:25:14.007Z POST /hook 2 bytes -> 200");
    }

    #[test]
    fn lines_leave_the_terminal_alone() {
        let odd = || Some("7\u{1b}]0;title\u{7}\u{9b}2J\n2026-11-25T09:25:14.007Z POST /forged".to_owned());
        let arrival = Arrival {
            at: Timestamp::from_millis(1_795_598_714_007),
            method: "P\u{85}".to_owned(),
            path: "/\u{202e}hook\u{7f}".to_owned(),
            delivery_id: odd(),
            sequence: odd(),
            attempt: odd(),
            payload: Bytes::new(),
            verdict: Verdict::Wrong("why\u{1b}[31m\r\n".to_owned()),
            status: StatusCode::OK,
        };
        let line = line(&arrival);
        assert!(!line.contains(terminal::is_steering) && line.ends_with("-> 200"), "{line:?}");
    }
}
