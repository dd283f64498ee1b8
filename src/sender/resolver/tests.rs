//! What is given, what is kept, and who waits for whom.

use std::fs;
use std::io::Write as _;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::future::join_all;
use tokio::net::{TcpListener, TcpSocket, TcpStream, UdpSocket};
use tokio::sync::Semaphore;

use super::*;

/// Names of a test, each with its addresses.
pub(in crate::sender) struct Listed(pub(in crate::sender) fn(&str) -> std::io::Result<Vec<SocketAddr>>);

impl LookUp for Listed {
    fn at_hand<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Vec<SocketAddr>> {
        std::future::ready(Vec::new()).boxed()
    }

    fn look_up<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Found, NotFound>> {
        let found = (self.0)(name).map(|addresses| Found { addresses, time_to_live: FOUND_TIME_MAX });
        std::future::ready(found.map_err(|_| NotFound::Answered)).boxed()
    }
}

/// Names whose servers keep silent.
pub(in crate::sender) struct Silent;

impl LookUp for Silent {
    fn at_hand<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Vec<SocketAddr>> {
        std::future::ready(Vec::new()).boxed()
    }

    fn look_up<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Result<Found, NotFound>> {
        std::future::pending().boxed()
    }
}

/// A listener that swallows what is sent to it: its queue is full, and it takes nothing from there.
pub(in crate::sender) struct Swallowing {
    _listener: TcpListener,
    _queued: Vec<TcpStream>,
}

impl Swallowing {
    pub(in crate::sender) async fn on(address: SocketAddr) -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(address).unwrap();
        let listener = socket.listen(1).unwrap();
        let mut queued = Vec::new();
        while let Ok(Ok(stream)) = timeout(Duration::from_millis(200), TcpStream::connect(address)).await {
            queued.push(stream);
        }
        Self { _listener: listener, _queued: queued }
    }
}

/// Those that begin with `silent` are; all others mean 1.1.1.1, once there is a permit for it. Counts what it was
/// asked.
#[derive(Default)]
struct Counted {
    asked: AtomicUsize,
    at_once: AtomicUsize,
    most: AtomicUsize,
    gate: Option<Semaphore>,
}

/// Counts until it is dropped.
struct Asked<'a>(&'a AtomicUsize);

impl Drop for Asked<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl LookUp for Arc<Counted> {
    fn at_hand<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Vec<SocketAddr>> {
        let known = if name == "listed" { vec![([9, 9, 9, 9], 0).into()] } else { Vec::new() };
        std::future::ready(known).boxed()
    }

    fn look_up<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Found, NotFound>> {
        async move {
            self.asked.fetch_add(1, Ordering::SeqCst);
            self.most.fetch_max(self.at_once.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            let _asked = Asked(&self.at_once);
            if name.starts_with("silent") {
                tokio::time::sleep(LOOK_UP_TIMEOUT * 2).await;
            }
            if let Some(gate) = &self.gate {
                gate.acquire().await.unwrap().forget();
            }
            let time_to_live = Duration::from_secs(name.bytes().filter(u8::is_ascii_digit).count() as u64);
            Ok(Found { addresses: vec![([1, 1, 1, 1], 0).into()], time_to_live })
        }
        .boxed()
    }
}

fn counted(gate: Option<usize>) -> (Arc<Counted>, Resolver) {
    let counted = Arc::new(Counted { gate: gate.map(Semaphore::new), ..Counted::default() });
    (Arc::clone(&counted), Resolver::new(AddressGuard::new(Vec::new()), counted, None))
}

fn tenant(name: &str) -> Tenant {
    name.parse().unwrap()
}

fn listed(name: &str) -> std::io::Result<Vec<SocketAddr>> {
    let address = |text: &str| text.replace('_', ":").parse().map(|ip| SocketAddr::new(ip, 0));
    name.split('+').map(|text| address(text).map_err(std::io::Error::other)).collect()
}

async fn check(name: &str, expected: Result<&[&str], ResolveError>) {
    let guard = AddressGuard::new(vec!["127.0.0.0/8".parse().unwrap(), "::1/128".parse().unwrap()]);
    let found = Resolver::new(guard, Listed(listed), None).addresses(&tenant("a"), name).await;
    let found = found.map(|found| found.iter().map(|a| a.ip().to_string()).collect::<Vec<_>>());
    let expected = expected.map(|list| list.iter().map(|&text| text.to_owned()).collect());
    assert_eq!(found, expected, "{name}");
}

#[tokio::test]
async fn only_addresses_that_pass_are_given() {
    check("1.1.1.1", Ok(&["1.1.1.1"])).await;
    check("10.0.0.1+1.1.1.1+fe80__1+127.0.0.1", Ok(&["1.1.1.1", "127.0.0.1"])).await;
    check("10.0.0.1+192.168.0.1", Err(ResolveError::Forbidden)).await;
    check("169.254.169.254", Err(ResolveError::Forbidden)).await;
    check("unknown", Err(ResolveError::Failed)).await;
}

#[tokio::test]
async fn localhost_is_loopback_without_a_question() {
    for name in ["localhost", "localhost.", "api.localhost"] {
        check(name, Ok(&["127.0.0.1", "::1"])).await;
    }
    let (counted, strict) = counted(None);
    assert_eq!(strict.addresses(&tenant("a"), "localhost").await, Err(ResolveError::Forbidden));
    assert!(strict.addresses(&tenant("a"), "listed").await.is_ok());
    assert_eq!(counted.asked.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn nothing_found_is_a_failure() {
    let resolver = Resolver::new(AddressGuard::new(Vec::new()), Listed(|_| Ok(Vec::new())), None);
    assert_eq!(resolver.addresses(&tenant("a"), "empty.example").await, Err(ResolveError::Failed));
}

/// Whoever asks for the same name waits for the same answer, whoever it is, and none is lost with who left.
#[tokio::test]
async fn one_look_up_serves_all() {
    let (counted, resolver) = counted(Some(0));
    let (a, b) = (tenant("a"), tenant("b"));
    let mut leaving = Box::pin(resolver.addresses(&a, "name1"));
    assert!(futures_util::poll!(&mut leaving).is_pending());
    let asking = (0..100).map(|n| resolver.addresses(if n % 2 == 0 { &a } else { &b }, "name1"));
    let asking = join_all(asking);
    tokio::pin!(asking);
    assert!(futures_util::poll!(&mut asking).is_pending());
    drop(leaving);
    counted.gate.as_ref().unwrap().add_permits(1);
    assert!(asking.await.iter().all(Result::is_ok));
    assert!(resolver.addresses(&b, "name1").await.is_ok());
    assert_eq!(counted.asked.load(Ordering::SeqCst), 1);
}

/// By their own word, within bounds.
#[tokio::test]
async fn answers_are_kept_for_a_while() {
    let guard = AddressGuard::new(Vec::new());
    let core = Resolver::new(guard, Arc::new(Counted::default()), None).0;
    for (name, seconds) in [("none", 1), ("three-333", 3), ("many-9999999999999999999999999", 20)] {
        core.ask(name).await.unwrap();
        assert_eq!(core.known.get(name).await.unwrap().time, Duration::from_secs(seconds), "{name}");
    }
}

/// Real time, of a test's silent servers: the cache's clock is its own.
#[tokio::test]
async fn silence_ends_and_is_remembered() {
    let (counted, resolver) = counted(None);
    let a = tenant("a");
    let began = Instant::now();
    assert_eq!(resolver.addresses(&a, "silent").await, Err(ResolveError::NotInTime));
    assert!(began.elapsed() >= LOOK_UP_TIMEOUT && began.elapsed() < LOOK_UP_TIMEOUT * 2);
    let began = Instant::now();
    assert_eq!(resolver.addresses(&a, "silent").await, Err(ResolveError::NotInTime));
    assert!(began.elapsed() < LOOK_UP_TIMEOUT / 2, "it is known");
    assert_eq!(counted.asked.load(Ordering::SeqCst), 1);
    assert!(resolver.0.silent.contains_key("silent"));
    assert!(resolver.0.flights().is_empty());
}

/// Very many names whose servers keep silent hold up nobody else, and not all of their tenant's own others.
#[tokio::test(start_paused = true)]
async fn silent_names_hold_up_no_other_tenant() {
    let (counted, resolver) = counted(None);
    let (a, b) = (tenant("a"), tenant("b"));
    assert!(resolver.addresses(&b, "seen").await.is_ok());
    let names: Vec<String> = (0..1000).map(|n| format!("silent-{n}")).collect();
    let silent = join_all(names.iter().map(|name| resolver.addresses(&a, name)));
    let beside = async {
        while counted.at_once.load(Ordering::SeqCst) < 100 {
            tokio::task::yield_now().await;
        }
        let began = tokio::time::Instant::now();
        for n in 0..100 {
            let name = format!("quick-{n}");
            let other = format!("other-{n}");
            let (first, second) = tokio::join!(resolver.addresses(&b, &name), resolver.addresses(&b, &other));
            assert!(first.is_ok() && second.is_ok());
        }
        began.elapsed()
    };
    let (silent, waited) = tokio::join!(silent, beside);
    assert!(waited < Duration::from_millis(10), "{waited:?}");
    assert!(silent.iter().all(|answer| *answer == Err(ResolveError::NotInTime)));
    assert!(counted.most.load(Ordering::SeqCst) <= 256 / 2 + 2);
}

/// The files of a system of the test's own.
struct Files {
    folder: tempfile::TempDir,
    port: u16,
}

impl Files {
    fn new(port: u16, config: &str, hosts: &str) -> Self {
        let files = Self { folder: tempfile::tempdir().unwrap(), port };
        files.write("resolv.conf", config);
        files.write("hosts", hosts);
        files
    }

    fn write(&self, name: &str, text: &str) {
        let mut file = fs::File::create(self.folder.path().join(name)).unwrap();
        file.write_all(text.as_bytes()).unwrap();
    }

    fn system(&self) -> System {
        let path = |name| self.folder.path().join(name);
        System::new(Paths { config: path("resolv.conf"), hosts: path("hosts"), port: self.port })
    }
}

/// Answers with 10.0.0.1 for names under `known.example`, says of names under `none.example` that they are
/// not there, and nothing to all others. Its port, and the names it was asked for.
async fn name_server() -> (u16, Arc<Mutex<Vec<String>>>) {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let port = socket.local_addr().unwrap().port();
    let asked = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&asked);
    tokio::spawn(async move {
        let mut buffer = [0; 512];
        while let Ok((length, from)) = socket.recv_from(&mut buffer).await {
            let question = &buffer[12..length];
            let mut name = String::new();
            let mut at = 0;
            while question[at] != 0 {
                let label = &question[at + 1..=at + usize::from(question[at])];
                name.push_str(&String::from_utf8_lossy(label));
                name.push('.');
                at += label.len() + 1;
            }
            let is_ipv4 = question[at + 2] == 1;
            let question = &question[..at + 5];
            log.lock().unwrap().push(name.clone());
            let known = name.ends_with("known.example.");
            if !known && !name.ends_with("none.example.") {
                continue;
            }
            let answers = u8::from(known && is_ipv4);
            let code = if known { 0x80 } else { 0x83 };
            let mut answer = vec![buffer[0], buffer[1], 0x81, code, 0, 1, 0, answers, 0, 0, 0, 0];
            answer.extend_from_slice(question);
            if answers == 1 {
                answer.extend_from_slice(&[0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 7, 0, 4, 10, 0, 0, 1]);
            }
            socket.send_to(&answer, from).await.unwrap();
        }
    });
    (port, asked)
}

#[tokio::test]
async fn names_are_found_as_the_system_does() {
    let (port, asked) = name_server().await;
    let config = "# a comment\nnameserver 127.0.0.1\nsearch none.example known.example\noptions ndots:2 timeout:1 attempts:1\n";
    let hosts = "192.0.2.7 Host1 alias # a comment\n::1 host1\n192.0.2.8 own_name\n";
    let system = Files::new(port, config, hosts);
    let system = system.system();
    for (name, expected) in [
        ("host1", &["::1", "192.0.2.7"][..]),
        ("HOST1.", &["::1", "192.0.2.7"]),
        ("alias", &["192.0.2.7"]),
        ("own_name", &["192.0.2.8"]),
        ("other", &[]),
    ] {
        let found: Vec<_> = system.at_hand(name).await.iter().map(|a| a.ip().to_string()).collect();
        assert_eq!(found, expected, "{name}");
    }
    assert_eq!(*asked.lock().unwrap(), Vec::<String>::new());
    for (name, expected, questions) in [
        ("www.known.example", Ok(["10.0.0.1"]), &["www.known.example."][..]),
        ("my_app.known.example.", Ok(["10.0.0.1"]), &["my_app.known.example."]),
        // Fewer dots than two: as in the list first.
        ("www", Ok(["10.0.0.1"]), &["www.none.example.", "www.known.example."]),
        ("www.none.example.", Err(NotFound::Answered), &["www.none.example."]),
        ("silent.example.", Err(NotFound::NotInTime), &["silent.example."]),
    ] {
        asked.lock().unwrap().clear();
        let found = system.look_up(name).await;
        let found = found.map(|found| {
            assert!(
                found.time_to_live <= Duration::from_secs(7) && found.time_to_live > Duration::from_secs(5)
            );
            found.addresses.iter().map(|a| a.ip().to_string()).collect::<Vec<_>>()
        });
        assert_eq!(found, expected.map(|list| list.map(str::to_owned).to_vec()), "{name}");
        let seen = asked.lock().unwrap().clone();
        assert!(questions.iter().all(|name| seen.iter().any(|seen| seen == name)), "{name}: {seen:?}");
    }
}

#[tokio::test]
async fn a_changed_file_is_read_again() {
    let (port, _) = name_server().await;
    let files = Files::new(port, "nameserver 127.0.0.1\noptions timeout:1 attempts:1\n", "192.0.2.7 host\n");
    let system = files.system();
    assert_eq!(system.at_hand("host").await, [([192, 0, 2, 7], 0).into()]);
    assert!(system.look_up("www").await.is_err());
    files.write("hosts", "192.0.2.77 host\n");
    files.write("resolv.conf", "nameserver 127.0.0.1\nsearch known.example\n");
    system.look_now();
    assert_eq!(system.at_hand("host").await, [([192, 0, 2, 77], 0).into()]);
    assert!(system.look_up("www").await.is_ok());
    // Nothing in them is the machine's own server.
    files.write("resolv.conf", "search known.example\n");
    system.look_now();
    assert!(system.look_up("www").await.is_ok());
}
