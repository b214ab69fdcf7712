//! Calls of every shape between the transport's own two sides.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use micro_core::{Error, ErrorKind, Metadata, Streaming};
use micro_transport_core::{
    Body, Context, DialOptions, Limits, ListenOptions, Request, Stop, Transport as _,
};
use micro_transport_grpc::GrpcTransport;
use tokio::time::Instant;

use crate::kit::{Server, all, eventually, messages, one, request, serve, stream_of, unary};

#[tokio::test]
async fn a_unary_call_is_one_message_each_way() {
    let server = Server::start().await;
    let node = server.dial().await;
    let mut metadata = Metadata::new();
    metadata.append("x-tenant", "acme").unwrap();
    metadata.append("x-tag", "a").unwrap();
    metadata.append("x-tag", "b").unwrap();
    metadata.append("x-raw-bin", [0, 255, 10, 13]).unwrap();
    let call = request("Echo", Body::Message("hello".into())).with_metadata(metadata.clone());
    let response = node.call(&Context::new(), call).await.unwrap();
    assert_eq!(response.content_type, "application/json");
    for (name, value) in metadata.iter() {
        assert!(
            response.metadata.get_all(name).any(|v| v == value),
            "{name}"
        );
    }
    let trailers = response.trailers.clone();
    assert_eq!(one(response.body).await.unwrap(), "hello");
    assert_eq!(trailers.get().unwrap().get("x-trailer"), Some("behind"));
}

#[tokio::test]
async fn sizes_around_every_threshold_survive() {
    let server = Server::start().await;
    let node = server.dial().await;
    let sizes = [
        0,
        1,
        255,
        256,
        8191,
        8192,
        8193,
        16383,
        16384,
        16385,
        65530,
        65536,
        70000,
        1 << 20,
        (1 << 20) + 1,
        (4 << 20) - 1,
        4 << 20,
    ];
    for size in sizes {
        let message = Bytes::from(vec![size as u8; size]);
        let got = unary(&*node, &Context::new(), "Echo", message.clone())
            .await
            .unwrap();
        assert_eq!(got, message, "{size}");
    }
}

#[tokio::test]
async fn many_calls_at_once_do_not_mix() {
    let server = Server::start().await;
    let node = server.dial().await;
    // More than the peer allows at once: the rest waits its turn.
    let calls = (0..1000_u32).map(|i| {
        let node = Arc::clone(&node);
        async move {
            let size = (i as usize * 37) % 3000;
            let mut message = vec![0; size + 4];
            message[..4].copy_from_slice(&i.to_be_bytes());
            let got = unary(&*node, &Context::new(), "Echo", message.clone())
                .await
                .unwrap();
            assert_eq!(got, message);
        }
    });
    futures_util::future::join_all(calls).await;
    assert_eq!(server.counts.begun(), 1000);
}

#[tokio::test]
async fn a_server_streams() {
    let server = Server::start().await;
    let node = server.dial().await;
    for (count, size) in [(0, 1), (1, 1), (1000, 10), (300, 10_000), (5, 1_000_000)] {
        let call = request("Count", Body::Message(format!("{count} {size}").into()));
        let response = node.call(&Context::new(), call).await.unwrap();
        let trailers = response.trailers.clone();
        let all = all(response.body).await.unwrap();
        assert_eq!(all.len(), count);
        assert!(all.iter().all(|message| message.len() == size));
        assert_eq!(
            trailers.get().unwrap().get("x-count"),
            Some(&*count.to_string())
        );
    }
}

#[tokio::test]
async fn a_client_streams() {
    let server = Server::start().await;
    let node = server.dial().await;
    for (count, size) in [(0, 1), (1, 1), (1000, 10), (300, 10_000), (5, 1_000_000)] {
        let sent = messages((0..count).map(|_| Ok(Bytes::from(vec![1; size]))));
        let response = node
            .call(&Context::new(), request("Collect", Body::Stream(sent)))
            .await
            .unwrap();
        let got = one(response.body).await.unwrap();
        assert_eq!(got, format!("{count} {}", count * size));
    }
}

#[tokio::test]
async fn both_stream_and_take_turns() {
    let server = Server::start().await;
    let node = server.dial().await;
    let (sender, stream) = Streaming::channel(1);
    let call = request("Chat", Body::Stream(Box::pin(stream)));
    let response = node.call(&Context::new(), call).await.unwrap();
    let mut replies = stream_of(response.body);
    for i in 0..100 {
        sender.send(Bytes::from(i.to_string())).await.unwrap();
        assert_eq!(replies.next().await.unwrap().unwrap(), i.to_string());
    }
    drop(sender);
    assert!(replies.next().await.is_none());
}

#[tokio::test]
async fn a_caller_may_send_without_reading() {
    let server = Server::start().await;
    let node = server.dial().await;
    let (sender, stream) = Streaming::channel(1);
    let call = request("Chat", Body::Stream(Box::pin(stream)));
    let response = node.call(&Context::new(), call).await.unwrap();
    // As much as the windows hold; nobody reads meanwhile.
    for _ in 0..100 {
        sender.send(Bytes::from(vec![1; 1000])).await.unwrap();
    }
    drop(sender);
    assert_eq!(all(response.body).await.unwrap().len(), 100);
}

#[tokio::test]
async fn an_early_answer_ends_the_caller_s_stream() {
    let server = Server::start().await;
    let node = server.dial().await;
    let (sender, stream) = Streaming::channel(1);
    let call = request("Early", Body::Stream(Box::pin(stream)));
    let response = node.call(&Context::new(), call).await.unwrap();
    assert_eq!(one(response.body).await.unwrap(), "early");
    tokio::time::timeout(Duration::from_secs(2), sender.closed())
        .await
        .unwrap();
}

#[tokio::test]
async fn an_error_in_the_caller_s_stream_is_the_call_s() {
    let server = Server::start().await;
    let node = server.dial().await;
    let sent = messages([Ok("one".into()), Err(Error::data_loss("the disk is gone"))]);
    let err = node
        .call(&Context::new(), request("Collect", Body::Stream(sent)))
        .await
        .unwrap_err();
    assert_eq!(
        (err.kind(), err.message()),
        (ErrorKind::DataLoss, "the disk is gone")
    );
    assert!(server.is_idle_within(Duration::from_secs(2)).await);
}

#[tokio::test]
async fn every_kind_of_error_comes_back() {
    let server = Server::start().await;
    let node = server.dial().await;
    for (index, kind) in ErrorKind::ALL.into_iter().enumerate() {
        let err = unary(&*node, &Context::new(), "Fail", index.to_string())
            .await
            .unwrap_err();
        assert_eq!(err.kind(), kind);
        assert_eq!(err.message(), "as you wish: ü\n100 %");
        assert!(!err.is_unprocessed());
    }
}

#[tokio::test]
async fn an_error_ends_a_stream_after_what_came_before() {
    let server = Server::start().await;
    let node = server.dial().await;
    let call = request("FailLate", Body::Message(Bytes::new()));
    let mut stream = stream_of(node.call(&Context::new(), call).await.unwrap().body);
    assert_eq!(stream.next().await.unwrap().unwrap(), "one");
    assert_eq!(stream.next().await.unwrap().unwrap(), "two");
    let err = stream.next().await.unwrap().unwrap_err();
    assert_eq!(
        (err.kind(), err.message()),
        (ErrorKind::Aborted, "after two")
    );
    assert!(stream.next().await.is_none());
    let call = request("FailFirst", Body::Message(Bytes::new()));
    let err = node.call(&Context::new(), call).await.unwrap_err();
    assert_eq!((err.kind(), err.message()), (ErrorKind::Aborted, "at once"));
}

#[tokio::test]
async fn the_handler_sees_the_call() {
    let server = Server::start().await;
    let node = server.dial().await;
    let cx = Context::new()
        .with_timeout(Duration::from_secs(5))
        .with_attempt(3);
    let seen = unary(&*node, &cx, "See", "").await.unwrap();
    let seen = String::from_utf8_lossy(&seen);
    assert!(
        seen.starts_with("path=/test.T/See type=application/json remaining=Some(49"),
        "{seen}"
    );
    assert!(
        seen.ends_with("attempt=3 local=Some(true) metadata=1 certificates=0"),
        "{seen}"
    );
    let seen = unary(&*node, &Context::new(), "See", "").await.unwrap();
    assert!(String::from_utf8_lossy(&seen).contains("remaining=None attempt=0"));
}

/// Failure case 1: the deadline, at both ends.
#[tokio::test]
async fn f01_a_call_ends_by_its_deadline() {
    let server = Server::start().await;
    let node = server.dial().await;
    let cx = Context::new().with_timeout(Duration::from_millis(100));
    let began = Instant::now();
    let err = unary(&*node, &cx, "Sleep", "").await.unwrap_err();
    assert_eq!(err.kind(), ErrorKind::DeadlineExceeded);
    assert!(
        began.elapsed() < Duration::from_millis(150),
        "{:?}",
        began.elapsed()
    );
    assert!(server.is_idle_within(Duration::from_millis(50)).await);
    assert_eq!(server.counts.cancelled.load(Ordering::SeqCst), 1);

    let cx = Context::new().with_timeout(Duration::from_millis(100));
    let call = request("Tick", Body::Message(Bytes::new()));
    let mut stream = stream_of(node.call(&cx, call).await.unwrap().body);
    let err = loop {
        if let Err(err) = stream.next().await.unwrap() {
            break err;
        }
    };
    assert_eq!(err.kind(), ErrorKind::DeadlineExceeded);

    let cx = Context::new().with_timeout(Duration::ZERO);
    let err = unary(&*node, &cx, "Echo", "").await.unwrap_err();
    assert_eq!(err.kind(), ErrorKind::DeadlineExceeded);
    assert!(err.is_unprocessed());
}

#[tokio::test]
async fn a_call_without_a_deadline_gets_the_listener_s_unless_it_streams() {
    let limits = Limits::default().with_call(Duration::from_millis(50));
    let server = serve(ListenOptions::default().with_limits(limits)).await;
    let node = server.dial().await;
    let err = unary(&*node, &Context::new(), "Sleep", "")
        .await
        .unwrap_err();
    assert_eq!(err.kind(), ErrorKind::DeadlineExceeded);
    let call = request("Tick", Body::Message(Bytes::new()));
    let stream = stream_of(node.call(&Context::new(), call).await.unwrap().body);
    let began = Instant::now();
    let ticks =
        stream.take_while(|_| std::future::ready(began.elapsed() < Duration::from_millis(150)));
    assert!(ticks.all(|tick| std::future::ready(tick.is_ok())).await);
    assert!(began.elapsed() >= Duration::from_millis(150));
}

/// Failure case 2: whoever hangs up is noticed, and nothing is left behind.
#[tokio::test]
async fn f02_dropping_a_call_cancels_its_handler() {
    let server = Server::start().await;
    let node = server.dial().await;
    let cx = Context::new();
    let call = unary(&*node, &cx, "Sleep", "");
    assert!(
        tokio::time::timeout(Duration::from_millis(30), call)
            .await
            .is_err()
    );
    assert!(server.is_idle_within(Duration::from_millis(50)).await);
    assert_eq!(server.counts.cancelled.load(Ordering::SeqCst), 1);

    let call = request("Tick", Body::Message(Bytes::new()));
    let mut stream = stream_of(node.call(&cx, call).await.unwrap().body);
    stream.next().await.unwrap().unwrap();
    drop(stream);
    // The connection is as good as before.
    assert_eq!(unary(&*node, &cx, "Echo", "x").await.unwrap(), "x");
}

#[tokio::test]
async fn f02_ten_thousand_cancelled_calls_leave_nothing() {
    let server = Server::start().await;
    let node = server.dial().await;
    let cx = Context::new();
    for _ in 0..100 {
        let calls = (0..100).map(|i| {
            let node = Arc::clone(&node);
            let cx = cx.clone();
            async move {
                let call = unary(&*node, &cx, "Sleep", "");
                let _ = tokio::time::timeout(Duration::from_micros(i * 50), call).await;
            }
        });
        futures_util::future::join_all(calls).await;
    }
    assert!(server.is_idle_within(Duration::from_secs(2)).await);
    assert!(node.is_open());
    assert!(format!("{node:?}").contains("calls: 0"), "{node:?}");
    assert_eq!(unary(&*node, &cx, "Echo", "x").await.unwrap(), "x");
}

#[tokio::test]
async fn a_lost_connection_cancels_its_handlers() {
    let server = Server::start().await;
    let node = server.dial().await;
    let cx = Context::new();
    let (call, seen) = tokio::join!(
        tokio::time::timeout(Duration::from_millis(50), unary(&*node, &cx, "Sleep", "")),
        eventually(Duration::from_millis(50), || server.counts.running() == 1),
    );
    assert!(call.is_err() && seen);
    drop(node);
    assert!(server.is_idle_within(Duration::from_millis(100)).await);
}

/// Failure case 4: a graceful stop loses no call that was accepted.
#[tokio::test]
async fn f04_a_drain_finishes_what_is_under_way() {
    let server = Server::start().await;
    let node = server.dial().await;
    let idle = server.dial().await;
    let mut calls = tokio::task::JoinSet::new();
    for _ in 0..200 {
        let node = Arc::clone(&node);
        calls.spawn(async move { unary(&*node, &Context::new(), "Nap", "").await });
    }
    let call = request("Tick", Body::Message(Bytes::new()));
    let mut stream = stream_of(node.call(&Context::new(), call).await.unwrap().body);
    assert!(eventually(Duration::from_secs(1), || server.counts.begun() >= 200).await);
    let now = Context::new().now();
    server.stop.set(Stop::Drain {
        until: now + Duration::from_millis(500),
    });
    let began = Instant::now();
    tokio::time::timeout(Duration::from_secs(1), node.closed())
        .await
        .unwrap();
    tokio::time::timeout(Duration::from_secs(1), idle.closed())
        .await
        .unwrap();
    assert!(!node.is_open());
    let err = unary(&*node, &Context::new(), "Echo", "")
        .await
        .unwrap_err();
    assert_eq!(err.kind(), ErrorKind::Unavailable);
    assert!(err.is_unprocessed());
    while let Some(done) = calls.join_next().await {
        assert_eq!(done.unwrap().unwrap(), "awake");
    }
    let err = GrpcTransport::new()
        .dial(&server.address, DialOptions::default())
        .await
        .unwrap_err();
    assert_eq!(err.kind(), ErrorKind::Unavailable);
    assert!(err.is_unprocessed());
    // The stream goes on until the end of the patience.
    let mut ticks = 0;
    let err = loop {
        match stream.next().await.unwrap() {
            Ok(_) => ticks += 1,
            Err(err) => break err,
        }
    };
    assert!(ticks > 50, "{ticks}");
    assert_eq!(err.kind(), ErrorKind::Unavailable);
    assert!(!err.is_unprocessed());
    let took = began.elapsed();
    assert!(
        took > Duration::from_millis(400) && took < Duration::from_millis(800),
        "{took:?}"
    );
}

#[tokio::test]
async fn a_drain_ends_as_soon_as_all_is_over() {
    let mut server = Server::start().await;
    let node = server.dial().await;
    let call = tokio::spawn(async move { unary(&*node, &Context::new(), "Nap", "").await });
    assert!(eventually(Duration::from_secs(1), || server.counts.running() == 1).await);
    let now = Context::new().now();
    server.stop.set(Stop::Drain {
        until: now + Duration::from_secs(60),
    });
    assert_eq!(call.await.unwrap().unwrap(), "awake");
    let ended = tokio::time::timeout(Duration::from_secs(1), &mut server.task).await;
    ended.unwrap().unwrap().unwrap();
}

#[tokio::test]
async fn a_close_ends_everything_at_once() {
    let mut server = Server::start().await;
    let node = server.dial().await;
    let call = tokio::spawn(async move { unary(&*node, &Context::new(), "Sleep", "").await });
    assert!(eventually(Duration::from_secs(1), || server.counts.running() == 1).await);
    server.stop.set(Stop::Close);
    let err = call.await.unwrap().unwrap_err();
    assert_eq!(err.kind(), ErrorKind::Unavailable);
    assert!(!err.is_unprocessed());
    let ended = tokio::time::timeout(Duration::from_secs(1), &mut server.task).await;
    ended.unwrap().unwrap().unwrap();
    assert_eq!(server.counts.running(), 0);
    assert_eq!(server.counts.cancelled.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn dropping_serve_closes_everything() {
    let server = Server::start().await;
    let node = server.dial().await;
    server.task.abort();
    tokio::time::timeout(Duration::from_secs(1), node.closed())
        .await
        .unwrap();
    assert!(!node.is_open());
}

/// Failure case 18: a panic is that call's failure, and nobody else's.
#[tokio::test]
async fn f18_a_panic_fails_one_call() {
    let server = Server::start().await;
    let node = server.dial().await;
    for method in ["Panic", "PanicLate"] {
        let err = unary(&*node, &Context::new(), method, "")
            .await
            .unwrap_err();
        assert_eq!(err.kind(), ErrorKind::Internal, "{method}");
        assert!(!err.message().contains("secret"), "{err}");
    }
    let call = request("PanicStream", Body::Message(Bytes::new()));
    let mut stream = stream_of(node.call(&Context::new(), call).await.unwrap().body);
    assert_eq!(stream.next().await.unwrap().unwrap(), "one");
    let err = stream.next().await.unwrap().unwrap_err();
    assert_eq!(err.kind(), ErrorKind::Internal);
    assert_eq!(
        unary(&*node, &Context::new(), "Echo", "x").await.unwrap(),
        "x"
    );
    assert!(node.is_open());
}

/// A handler that computes moves to tasks of its own, so that its neighbours are not held up.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_handler_that_computes_gets_a_task() {
    let server = Server::start().await;
    let node = server.dial().await;
    let cx = Context::new();
    let mut tasks = std::collections::HashSet::new();
    for _ in 0..6 {
        tasks.insert(unary(&*node, &cx, "Busy", "").await.unwrap());
    }
    assert!(tasks.len() >= 3, "{tasks:?}");
}

#[tokio::test]
async fn an_unknown_path_or_codec_is_the_handler_s_to_refuse() {
    let server = Server::start().await;
    let node = server.dial().await;
    let cx = Context::new();
    for path in ["/x", "/a.B/C/D", "/../x", "/%00/x", "/"] {
        let call = Request::new(path, "application/avro", Body::Message(Bytes::new()));
        let err = node.call(&cx, call).await.unwrap_err();
        assert_eq!(err.kind(), ErrorKind::Unimplemented, "{path}");
    }
    for path in ["", "x", "/a b", "/\n"] {
        let call = Request::new(path, "application/json", Body::Message(Bytes::new()));
        let err = node.call(&cx, call).await.unwrap_err();
        assert_eq!(err.kind(), ErrorKind::InvalidArgument, "{path:?}");
    }
}

#[tokio::test]
async fn dialling_nobody_is_unavailable_and_unprocessed() {
    let server = Server::start().await;
    let address = server.address.clone();
    drop(server);
    tokio::time::sleep(Duration::from_millis(20)).await;
    let transport = GrpcTransport::new();
    let err = transport
        .dial(&address, DialOptions::default())
        .await
        .unwrap_err();
    assert_eq!(err.kind(), ErrorKind::Unavailable);
    assert!(err.is_unprocessed());
    let err = transport
        .dial("nowhere", DialOptions::default())
        .await
        .unwrap_err();
    assert_eq!(err.kind(), ErrorKind::InvalidArgument);
    // Somebody who accepts and says nothing.
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = silent.local_addr().unwrap().to_string();
    let opts = DialOptions::default().with_timeout(Duration::from_millis(100));
    let err = transport.dial(&address, opts).await.unwrap_err();
    assert_eq!(err.kind(), ErrorKind::DeadlineExceeded);
    assert!(err.is_unprocessed());
}

#[tokio::test]
async fn a_connection_outlives_its_handle_while_a_stream_is_read() {
    let server = Server::start().await;
    let node = server.dial().await;
    let call = request("Tick", Body::Message(Bytes::new()));
    let mut stream = stream_of(node.call(&Context::new(), call).await.unwrap().body);
    drop(node);
    for _ in 0..20 {
        stream.next().await.unwrap().unwrap();
    }
}
