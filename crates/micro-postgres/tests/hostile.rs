//! Servers that nobody should meet: each is a few lines of its own, on a port of its own.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use micro_core::{ErrorKind, SystemRandom};
use micro_postgres::{Connection, Failure, Fate, Pool, PostgresConfig, Query, Server, Session};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, timeout};

const READY: &[u8] = b"Z\0\0\0\x05I";

/// A message: its type, its length, and what is in it.
fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![kind];
    bytes.extend((body.len() as u32 + 4).to_be_bytes());
    bytes.extend(body);
    bytes
}

/// "You are in", and nothing is asked.
fn greeting() -> Vec<u8> {
    let version = message(b'S', b"server_version\0fake\0");
    [message(b'R', &[0; 4]), version, READY.to_vec()].concat()
}

/// The columns of an answer: one number.
fn columns() -> Vec<u8> {
    let mut body = vec![0, 1];
    body.extend(b"n\0");
    body.extend([0; 6]);
    // int4, of four bytes.
    body.extend([0, 0, 0, 23, 0, 4, 0xff, 0xff, 0xff, 0xff, 0, 1]);
    message(b'T', &body)
}

fn row(value: &[u8]) -> Vec<u8> {
    let length = (value.len() as u32).to_be_bytes();
    message(b'D', &[&[0, 1], &length[..], value].concat())
}

fn done() -> Vec<u8> {
    [message(b'C', b"SELECT 1\0"), READY.to_vec()].concat()
}

/// What is said until the first statement is to be run: to the session's settings, to the question
/// whether it is a standby, and to the preparation.
fn until_prepared() -> Vec<Vec<u8>> {
    let settings = [message(b'C', b"SET\0"), READY.to_vec()].concat();
    let column = [
        &[0, 1][..],
        b"transaction_read_only\0",
        &[0; 6],
        &[0, 0, 0, 25, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0],
    ];
    let standby = [message(b'T', &column.concat()), row(b"off"), done()].concat();
    let prepared = [
        message(b'1', b""),
        message(b't', &[0, 0]),
        columns(),
        READY.to_vec(),
    ];
    vec![greeting(), settings, standby, prepared.concat()]
}

/// Reads up to the end of a request; false at the end of all.
async fn request(socket: &mut TcpStream) -> bool {
    loop {
        let mut header = [0; 5];
        if socket.read_exact(&mut header).await.is_err() {
            return false;
        }
        let length = u32::from_be_bytes([header[1], header[2], header[3], header[4]]);
        let mut body = vec![0; length as usize - 4];
        if socket.read_exact(&mut body).await.is_err() {
            return false;
        }
        if matches!(header[0], b'Q' | b'S' | b'p') {
            return true;
        }
    }
}

async fn startup(socket: &mut TcpStream) {
    let length = socket.read_u32().await.unwrap_or(4);
    let mut body = vec![0; length as usize - 4];
    let _ = socket.read_exact(&mut body).await;
}

/// Says one thing to each request, then is silent.
async fn say(mut socket: TcpStream, parts: Vec<Vec<u8>>) {
    startup(&mut socket).await;
    for (i, part) in parts.into_iter().enumerate() {
        if i > 0 && !request(&mut socket).await {
            return;
        }
        if socket.write_all(&part).await.is_err() {
            return;
        }
    }
    while request(&mut socket).await {}
}

/// A server that treats each connection like this, and a pool in front of it.
async fn server<F>(each: impl Fn(TcpStream) -> F + Send + 'static) -> Pool
where
    F: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            tokio::spawn(each(socket));
        }
    });
    let mut config = PostgresConfig::default();
    config.endpoints = vec![format!("127.0.0.1:{port}")];
    config.connect = Duration::from_millis(500);
    config.timeout = Duration::from_millis(300);
    Pool::new(config, Session::default(), Arc::new(SystemRandom)).unwrap()
}

/// One statement, tried once.
async fn ask(pool: &Pool) -> Result<Option<i32>, Failure> {
    let deadline = Instant::now() + Duration::from_secs(5);
    let connection: Connection = pool.get(deadline).await?;
    let rows = connection
        .query(&Query::new("SELECT n", Vec::new()))
        .await?;
    Ok(rows.first().and_then(|row| row.try_get(0).ok()))
}

#[tokio::test]
async fn an_honest_server_is_understood() {
    let mut parts = until_prepared();
    parts.push([message(b'2', b""), row(&[0, 0, 0, 7]), done()].concat());
    let pool = server(move |socket| say(socket, parts.clone())).await;
    assert_eq!(ask(&pool).await.unwrap(), Some(7));
}

/// What CockroachDB says of itself, and what is said to it then.
#[tokio::test]
async fn a_cockroach_is_told_from_a_postgres() {
    let (heard, mut hears) = tokio::sync::mpsc::unbounded_channel();
    let pool = server(move |mut socket| {
        let heard = heard.clone();
        async move {
            startup(&mut socket).await;
            let version = message(b'S', b"crdb_version\0CockroachDB CCL v24.1.0\0");
            let greeting = [message(b'R', &[0; 4]), version, READY.to_vec()];
            socket.write_all(&greeting.concat()).await.unwrap();
            let mut first = vec![0; 1024];
            let read = socket.read(&mut first).await.unwrap();
            heard
                .send(String::from_utf8_lossy(&first[..read]).into_owned())
                .unwrap();
            let parts = until_prepared();
            for part in &parts[1..3] {
                socket.write_all(part).await.unwrap();
                request(&mut socket).await;
            }
        }
    });
    let config = pool.await.config().clone();
    let session = Session::new("SET only_for = 'postgres'", "SET only_for = 'cockroach'");
    let pool = Pool::new(config, session, Arc::new(SystemRandom)).unwrap();
    let deadline = Instant::now() + Duration::from_secs(5);
    let connection = pool.get(deadline).await.unwrap();
    assert_eq!(connection.server(), Server::Cockroach);
    let said = hears.recv().await.unwrap();
    assert!(said.contains("statement_timeout = 300"), "{said}");
    assert!(
        said.contains("'cockroach'") && !said.contains("'postgres'"),
        "{said}"
    );
}

/// Whichever of the two is asked first.
#[tokio::test]
async fn a_standby_is_passed_over() {
    let mut parts = until_prepared();
    parts.push([message(b'2', b""), row(&[0, 0, 0, 7]), done()].concat());
    let good = parts.clone();
    // The same answer, but for one word.
    let standby = parts[2]
        .windows(6)
        .position(|part| part == b"\0\0\x03off")
        .unwrap();
    parts[2].splice(standby..standby + 6, *b"\0\0\x02on");
    let at = parts[2].windows(1).position(|part| part == b"D").unwrap() + 4;
    parts[2][at] -= 1;
    let standby = server(move |socket| say(socket, parts.clone())).await;
    let primary = server(move |socket| say(socket, good.clone())).await;
    let failure = ask(&standby).await.unwrap_err();
    assert_eq!(failure.fate(), Fate::Again, "{failure:?}");
    assert!(format!("{failure:?}").contains("read-only"), "{failure:?}");
    let mut config = standby.config().clone();
    config.endpoints.extend(primary.config().endpoints.clone());
    for _ in 0..2 {
        config.endpoints.reverse();
        let pool = Pool::new(config.clone(), Session::default(), Arc::new(SystemRandom)).unwrap();
        assert_eq!(ask(&pool).await.unwrap(), Some(7));
    }
}

#[tokio::test]
async fn s61_rows_that_are_too_short_are_errors() {
    for short in [
        message(b'D', &[0, 0]),
        message(b'D', &[0, 1]),
        message(b'D', &[0, 1, 0, 0, 0, 4, 1]),
        message(b'D', &[0xff, 0xff]),
        message(b'D', &[]),
        row(&[1]),
    ] {
        let mut parts = until_prepared();
        parts.push([message(b'2', b""), short, done()].concat());
        let pool = server(move |socket| say(socket, parts.clone())).await;
        // Either is right: what counts is that no number comes out of it.
        assert_eq!(ask(&pool).await.ok().flatten(), None);
    }
}

#[tokio::test]
async fn s61_a_password_is_not_hashed_for_ever() {
    let pool = server(async |mut socket: TcpStream| {
        startup(&mut socket).await;
        let mechanisms = [&[0, 0, 0, 10][..], b"SCRAM-SHA-256\0\0"].concat();
        socket.write_all(&message(b'R', &mechanisms)).await.unwrap();
        let mut first = vec![0; 1024];
        let read = socket.read(&mut first).await.unwrap();
        let first = String::from_utf8_lossy(&first[..read]).into_owned();
        let nonce = first.rsplit("r=").next().unwrap().to_owned();
        let answer = format!("r={nonce}x,s=c2FsdA==,i=2147483647");
        let answer = [&[0, 0, 0, 11][..], answer.as_bytes()].concat();
        socket.write_all(&message(b'R', &answer)).await.unwrap();
        while request(&mut socket).await {}
    });
    let pool = pool.await;
    let mut config = pool.config().clone();
    config.password = Some("hunter2".into());
    let pool = Pool::new(config, Session::default(), Arc::new(SystemRandom)).unwrap();
    let begin = Instant::now();
    let err = ask(&pool).await.unwrap_err().into_error();
    assert_eq!(err.kind(), ErrorKind::Unauthenticated, "{err:?}");
    assert!(begin.elapsed() < Duration::from_secs(10));
}

#[tokio::test]
async fn a_password_that_is_wanted_and_not_there_is_named() {
    // In clear, and as MD5.
    for wanted in [&[0, 0, 0, 3][..], &[0, 0, 0, 5, 1, 2, 3, 4]] {
        let greeting = message(b'R', wanted);
        let pool = server(move |socket| say(socket, vec![greeting.clone()])).await;
        let err = ask(&pool).await.unwrap_err().into_error();
        assert_eq!(err.kind(), ErrorKind::Unauthenticated, "{err:?}");
    }
}

/// A billion rows, and one row of two gigabytes.
#[tokio::test(flavor = "multi_thread")]
async fn s61_an_endless_answer_is_not_kept() {
    let mut parts = until_prepared();
    parts.push(message(b'2', b""));
    let rows = row(&vec![0; 1 << 20]);
    let pool = server(move |mut socket| {
        let (parts, rows) = (parts.clone(), rows.clone());
        async move {
            startup(&mut socket).await;
            for (i, part) in parts.iter().enumerate() {
                if i > 0 && !request(&mut socket).await {
                    return;
                }
                socket.write_all(part).await.unwrap();
            }
            while socket.write_all(&rows).await.is_ok() {}
        }
    });
    let pool = pool.await;
    let failure = ask(&pool).await.unwrap_err();
    assert_eq!(failure.fate(), Fate::Unknown);
    assert!(format!("{failure:?}").contains("64 MiB"), "{failure:?}");

    let mut parts = until_prepared();
    let huge = [&b"D"[..], &i32::MAX.to_be_bytes(), &[0; 100]].concat();
    parts.push([message(b'2', b""), huge].concat());
    let pool = server(move |socket| say(socket, parts.clone())).await;
    let begin = Instant::now();
    let failure = ask(&pool).await.unwrap_err();
    assert_eq!(failure.fate(), Fate::Unknown);
    assert!(
        begin.elapsed() < Duration::from_millis(700),
        "it waited for it"
    );
}

/// At whatever point it falls silent, or goes.
#[tokio::test]
async fn a_silent_server_holds_nobody() {
    for said in 0..=4 {
        let parts = until_prepared();
        let pool = server(move |socket| say(socket, parts[..said].to_vec())).await;
        let begin = Instant::now();
        let failure = ask(&pool).await.unwrap_err();
        let expected = if said == 4 {
            Fate::Unknown
        } else {
            Fate::Again
        };
        assert_eq!(failure.fate(), expected, "silent after {said}");
        let took = begin.elapsed();
        assert!(
            took < Duration::from_secs(5),
            "silent after {said}: {took:?}"
        );
    }
    for said in 0..=4 {
        let parts = until_prepared();
        let pool = server(move |mut socket| {
            let parts = parts[..said].to_vec();
            async move {
                startup(&mut socket).await;
                for (i, part) in parts.iter().enumerate() {
                    if i > 0 && !request(&mut socket).await {
                        return;
                    }
                    socket.write_all(part).await.unwrap();
                }
                request(&mut socket).await;
            }
        });
        let failure = ask(&pool.await).await.unwrap_err();
        let expected = if said == 4 {
            Fate::Unknown
        } else {
            Fate::Again
        };
        assert_eq!(failure.fate(), expected, "gone after {said}: {failure:?}");
    }
}

/// What became of a statement, by the code that the server gives.
#[tokio::test]
async fn every_code_has_its_meaning() {
    use ErrorKind as Kind;
    for (code, severity, fate, kind) in [
        ("40001", "ERROR", Fate::Again, Kind::Unavailable),
        ("40P01", "ERROR", Fate::Again, Kind::Unavailable),
        ("40003", "ERROR", Fate::Unknown, Kind::OutcomeUnknown),
        ("08006", "ERROR", Fate::Unknown, Kind::OutcomeUnknown),
        ("57P01", "FATAL", Fate::Unknown, Kind::OutcomeUnknown),
        ("57P02", "FATAL", Fate::Unknown, Kind::OutcomeUnknown),
        ("57P03", "FATAL", Fate::Unknown, Kind::OutcomeUnknown),
        ("XX000", "FATAL", Fate::Unknown, Kind::OutcomeUnknown),
        ("XX000", "PANIC", Fate::Unknown, Kind::OutcomeUnknown),
        ("XX000", "ERROR", Fate::Failed, Kind::Unknown),
        ("XX001", "ERROR", Fate::Failed, Kind::Corrupt),
        ("57014", "ERROR", Fate::Failed, Kind::Unavailable),
        ("25006", "ERROR", Fate::Again, Kind::Unavailable),
        ("26000", "ERROR", Fate::Again, Kind::Unavailable),
        ("42501", "ERROR", Fate::Failed, Kind::PermissionDenied),
        ("42P01", "ERROR", Fate::Failed, Kind::FailedPrecondition),
        ("53100", "ERROR", Fate::Failed, Kind::ResourceExhausted),
        ("54000", "ERROR", Fate::Failed, Kind::ResourceExhausted),
        ("53300", "FATAL", Fate::Again, Kind::Unavailable),
        ("28P01", "FATAL", Fate::Failed, Kind::Unauthenticated),
        ("22012", "ERROR", Fate::Failed, Kind::Unknown),
        // CockroachDB leaves out fields that PostgreSQL always gives.
        ("", "ERROR", Fate::Failed, Kind::Unknown),
        ("é", "ERROR", Fate::Failed, Kind::Unknown),
    ] {
        let body = format!("S{severity}\0C{code}\0Mno\0\0");
        let mut parts = until_prepared();
        parts.push([message(b'E', body.as_bytes()), READY.to_vec()].concat());
        let pool = server(move |socket| say(socket, parts.clone())).await;
        let failure = ask(&pool).await.unwrap_err();
        assert_eq!(failure.fate(), fate, "{code} {severity}: {failure:?}");
        let err = failure.into_error();
        assert_eq!(err.kind(), kind, "{code} {severity}: {err:?}");
        if kind == Kind::OutcomeUnknown {
            assert!(!err.is_retryable(), "{code} {severity}");
        }
    }
}

/// Whatever a server says in the middle of it all: rows or an error, in time, and no panic in any task.
#[test]
fn s61_any_answer_is_understood_or_refused() {
    let mut answered = until_prepared();
    answered.push([message(b'2', b""), row(&[0, 0, 0, 7]), done()].concat());
    let mut refused = until_prepared();
    refused.push([message(b'E', b"SERROR\0C40001\0Mno\0\0"), READY.to_vec()].concat());
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .unwrap();
    let panics = Arc::new(AtomicUsize::new(0));
    let (counted, usual) = (Arc::clone(&panics), std::panic::take_hook());
    std::panic::set_hook(Box::new(move |info| {
        counted.fetch_add(1, Ordering::SeqCst);
        usual(info);
    }));
    // Many at a time: most of each is waiting.
    let mut together = Vec::new();
    micro_conformance::mutation::run(&[&answered.concat(), &refused.concat()], |bytes| {
        together.push(runtime.spawn(converse(bytes.to_vec())));
        if together.len() == 64 {
            for conversation in together.drain(..) {
                runtime.block_on(conversation).expect("it ends in time");
            }
            assert_eq!(panics.load(Ordering::SeqCst), 0, "a task has panicked");
        }
    });
}

/// Has a server say this, a part for each request as an honest one gives them.
async fn converse(bytes: Vec<u8>) {
    let mut parts = vec![Vec::new()];
    let mut rest = &*bytes;
    while let Some(at) = rest.windows(READY.len()).position(|part| part == READY) {
        let (part, behind) = rest.split_at(at + READY.len());
        parts.last_mut().unwrap().extend(part);
        parts.push(Vec::new());
        rest = behind;
    }
    parts.last_mut().unwrap().extend(rest);
    let pool = server(move |mut socket| {
        let parts = parts.clone();
        async move {
            startup(&mut socket).await;
            for (i, part) in parts.iter().enumerate() {
                // Who waits for an answer asks for nothing more: go on all the same.
                if i > 0 {
                    let asked = request(&mut socket);
                    let _ = timeout(Duration::from_millis(10), asked).await;
                }
                if socket.write_all(part).await.is_err() {
                    return;
                }
            }
        }
    });
    let pool = pool.await;
    let answer = timeout(Duration::from_secs(10), ask(&pool)).await;
    let _ = answer.expect("it ends in time");
}
