//! How much of anything there may be, with the reason beside each number.

use std::time::Duration;

/// A tenant's name stands in paths and in every row; longer ones name nothing better.
pub const TENANT_CHARS_MAX: usize = 64;

/// The longest target address: what common servers and proxies take in a request line.
pub const TARGET_URL_CHARS_MAX: usize = 2048;

/// A description is a line for people, not a document.
pub const DESCRIPTION_CHARS_MAX: usize = 1024;

/// Static headers of one subscription.
pub const STATIC_HEADERS_MAX: usize = 32;
/// One static header's name; registered ones stay below 50.
pub const STATIC_HEADER_NAME_BYTES_MAX: usize = 128;
/// One static header's value.
pub const STATIC_HEADER_BYTES_MAX: usize = 4096;

/// An ingest secret: a hash block and plenty more, yet small in every cache.
pub const SECRET_KEY_BYTES_MAX: usize = 512;

/// Certificates of a chain, or a private key, in PEM: some ten certificates of common sizes.
pub const CERTIFICATE_BYTES_MAX: usize = 16 * 1024;

/// Idempotency and ordering keys: room for a UUID, a path or a compound name.
pub const KEY_CHARS_MAX: usize = 255;

/// What people call an API key: a line in a list.
pub const KEY_NAME_CHARS_MAX: usize = 100;

/// The largest payload an operator may allow: it travels in one statement with its whole batch.
pub const PAYLOAD_BYTES_MAX: usize = 32 * 1024 * 1024;

/// Bytes of an endpoint's answer that the attempt log keeps.
pub const RESPONSE_BODY_KEPT_BYTES: usize = 4096;
/// Bytes of an endpoint's answer that are read at most, so that its connection can be used again.
pub const RESPONSE_BODY_READ_BYTES: usize = 64 * 1024;
/// How long after the head of an answer its body is read: it is for the log only.
pub const RESPONSE_BODY_READ_TIME: Duration = Duration::from_secs(2);

/// An error message in the attempt log.
pub const ERROR_MESSAGE_CHARS_MAX: usize = 512;

/// The shortest and the longest time-out of an attempt.
pub const TIMEOUT_MIN: Duration = Duration::from_millis(100);
/// See [`TIMEOUT_MIN`]; longer ones hold a place in flight that others wait for.
pub const TIMEOUT_MAX: Duration = Duration::from_mins(2);

/// The most retries a policy may ask for: with doubling delays, years.
pub const RETRIES_MAX: u32 = 100;
/// The longest a retry may be put off, by policy or by `Retry-After`.
pub const RETRY_DELAY_MAX: Duration = Duration::from_hours(24);

/// Requests in flight that one subscription may ask for.
pub const IN_FLIGHT_MAX: u32 = 1000;

/// Requests in flight that one tenant may ask for: as many as a node may be set up for, since a
/// limit above all there can be means nothing.
pub const TENANT_IN_FLIGHT_MAX: u32 = 65_536;

/// Subscriptions that a tenant may be limited to: more than a server holds.
pub const TENANT_SUBSCRIPTIONS_MAX: u32 = 1_000_000;

/// Bytes that a tenant may be limited to: a pebibyte, which every JSON parser reads exactly.
pub const TENANT_STORED_BYTES_MAX: u64 = 1 << 50;

/// The most requests per second a rate limit may name; beyond it a limit means nothing.
pub const RATE_MAX: f64 = 100_000.0;
/// The least: one in a day.
pub const RATE_MIN: f64 = 1.0 / 86_400.0;
/// The largest burst of a rate limit.
pub const BURST_MAX: u32 = 100_000;

/// Deliveries that a lane holds ready; what is beyond stays in the store. Two round trips' worth:
/// the next half is loaded while the first is sent.
pub const LANE_WINDOW: usize = 256;
/// Deliveries that a lane holds before it has sent any: very many lanes that wait for their first place
/// in flight, as after a start, hold little.
pub const LANE_FIRST_PAGE: usize = 16;
/// Deliveries that a lane holds while they wait for a retry, beside its window, so that failing
/// ones do not take the places of those behind them. Those in flight that fail come on top.
pub const LANE_WAITING_MAX: usize = 1024;

/// Deliveries of one key that a lane holds: enough for one page to serve many, and few enough that
/// a window has room for many keys.
pub const LANE_KEY_DEPTH_MAX: usize = 16;

/// Rows of one page that a client may ask for.
pub const PAGE_LIMIT_MAX: u32 = 100;
/// The last page of an offset listing: what lies beyond is found by filter, not by leafing.
pub const PAGE_NUMBER_MAX: u32 = 1_000_000;

/// How long a replaced secret stays in force where nobody says otherwise: a day, in which people at both ends are awake.
pub const SECRET_OVERLAP_DEFAULT: Duration = Duration::from_hours(24);
/// The longest that may be asked for.
pub const SECRET_OVERLAP_MAX: Duration = Duration::from_hours(7 * 24);
/// Secrets of one kind in force at once, the current one among them: each costs a signature per delivery, or a
/// comparison per event.
pub const SECRETS_IN_FORCE_MAX: usize = 5;

const _: () = assert!(RESPONSE_BODY_KEPT_BYTES <= RESPONSE_BODY_READ_BYTES);
const _: () = assert!(SECRETS_IN_FORCE_MAX > 1);
const _: () = assert!(LANE_WINDOW <= LANE_WAITING_MAX);
const _: () = assert!(LANE_FIRST_PAGE <= LANE_WINDOW);
const _: () = assert!(IN_FLIGHT_MAX <= TENANT_IN_FLIGHT_MAX);

/// The fewest connections to PostgreSQL that a node works with: one that hears notices, one for each of the two
/// writers, one for what lanes read, and two for the API and housekeeping.
pub const DATABASE_CONNECTIONS_MIN: u32 = 6;
/// More than a server usually takes, all nodes together.
pub const DATABASE_CONNECTIONS_MAX: u32 = 1000;
