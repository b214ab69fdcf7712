//! From bytes to a handler and back, over the memory transport.

mod common;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use common::{codecs, greeter, many, one, request, text, texts};
use micro_codec_core::RawBytes;
use micro_codec_core::shape;
use micro_core::{Context, ErrorKind, Identity, Metadata, Result, async_trait};
use micro_server::{HandlerOptions, Routes, ServerHandler};
use micro_transport_core::{
    Body, Connection, Handler as _, MethodKind, Middleware, Next, Request, Response,
};
use micro_transport_core::{ListenOptions, Live, Transport as _};
use micro_transport_memory::MemoryTransport;

#[derive(Debug)]
struct Served {
    handler: Arc<ServerHandler>,
    connection: Arc<dyn Connection>,
    task: tokio::task::JoinHandle<Result<()>>,
}

impl Drop for Served {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Served {
    async fn call(&self, path: &str, body: Body) -> Result<Response> {
        self.connection
            .call(&Context::new(), request(path, body))
            .await
    }
}

async fn serve(routes: Vec<Routes>, opts: HandlerOptions) -> Served {
    let handler = ServerHandler::new("greeter", routes, opts).unwrap();
    let network = MemoryTransport::new();
    let listener = network.listen("", ListenOptions::default()).await.unwrap();
    let address = listener.address();
    let task = tokio::spawn(listener.serve(Arc::clone(&handler) as _, Live::default()));
    let connection = common::dial(&network, &address).await;
    Served {
        handler,
        connection,
        task,
    }
}

async fn greeting() -> Served {
    let opts = HandlerOptions::default().with_codecs(codecs());
    serve(vec![greeter()], opts).await
}

#[tokio::test]
async fn all_four_shapes_answer() {
    let served = greeting().await;
    let response = served
        .call("/greeter.Greeter/Hello", one("\"Ada\""))
        .await
        .unwrap();
    assert_eq!(text(&response), "\"Hello, Ada!\"");
    assert_eq!(response.content_type, "application/json");

    let response = served
        .call("/greeter.Greeter/Count", one("3"))
        .await
        .unwrap();
    assert_eq!(texts(response.body).await.0, ["0", "1", "2"]);

    let response = served
        .call("/greeter.Greeter/Sum", many(&["1", "2", "39"]))
        .await
        .unwrap();
    assert_eq!(text(&response), "42");

    let response = served
        .call("/greeter.Greeter/Echo", many(&["\"a\"", "\"b\""]))
        .await
        .unwrap();
    assert_eq!(texts(response.body).await.0, ["\"a\"", "\"b\""]);
}

#[tokio::test]
async fn metadata_travel_both_ways_ahead_and_behind() {
    let served = greeting().await;
    let traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let mut metadata = Metadata::new();
    metadata.insert("X-Tenant", "acme").unwrap();
    metadata.insert("traceparent", traceparent).unwrap();
    let request = request("/greeter.Greeter/Hello", one("\"Ada\"")).with_metadata(metadata);
    let response = served
        .connection
        .call(&Context::new(), request)
        .await
        .unwrap();
    assert_eq!(response.metadata.get("x-tenant-seen"), Some("acme"));
    assert_eq!(response.metadata.get("x-trace-seen"), Some(traceparent));

    let response = served
        .call("/greeter.Greeter/Count", one("2"))
        .await
        .unwrap();
    assert_eq!(response.metadata.get("x-ahead"), Some("1"));
    assert!(response.trailers.get().is_none());
    let trailers = response.trailers.clone();
    assert!(texts(response.body).await.1.is_none());
    assert_eq!(trailers.get().unwrap().get("x-behind"), Some("2"));
    assert_eq!(trailers.get().unwrap().get("x-ahead"), None);
}

#[tokio::test]
async fn a_trace_that_cannot_be_read_is_none() {
    let served = greeting().await;
    let mut metadata = Metadata::new();
    metadata.insert("traceparent", "00-garbage").unwrap();
    let request = request("/greeter.Greeter/Hello", one("\"Ada\"")).with_metadata(metadata);
    let response = served
        .connection
        .call(&Context::new(), request)
        .await
        .unwrap();
    assert!(!response.metadata.contains("x-trace-seen"));
}

#[tokio::test]
async fn a_codec_that_is_wrong_or_unknown_is_unimplemented() {
    let served = greeting().await;
    for (content_type, says) in [
        ("application/protobuf", "derive micro::Message"),
        ("application/cbor", "no codec for this content type"),
    ] {
        let request = Request::new("/greeter.Greeter/Hello", content_type, one("\"Ada\""));
        let err = served
            .connection
            .call(&Context::new(), request)
            .await
            .unwrap_err();
        assert_eq!(err.kind(), ErrorKind::Unimplemented, "{content_type}");
        assert!(err.message().contains(says), "{err}");
    }
    let err = served
        .call("/greeter.Greeter/Hello", one("42"))
        .await
        .unwrap_err();
    assert_eq!(err.kind(), ErrorKind::InvalidArgument);
}

#[tokio::test]
async fn a_unary_call_has_exactly_one_message() {
    let served = greeting().await;
    let path = "/greeter.Greeter/Hello";
    let response = served.call(path, many(&["\"Ada\""])).await.unwrap();
    assert_eq!(text(&response), "\"Hello, Ada!\"");
    for body in [many(&[]), many(&["\"Ada\"", "\"Eve\""])] {
        let err = served.call(path, body).await.unwrap_err();
        assert_eq!(err.kind(), ErrorKind::Internal);
        assert!(err.message().contains("exactly one message"), "{err}");
    }
    // And a stream may have come as one message.
    let response = served.call("/greeter.Greeter/Sum", one("7")).await.unwrap();
    assert_eq!(text(&response), "7");
}

#[tokio::test]
async fn a_message_that_cannot_be_read_ends_the_stream_of_requests() {
    let served = greeting().await;
    let err = served
        .call("/greeter.Greeter/Sum", many(&["1", "x", "2"]))
        .await
        .unwrap_err();
    assert_eq!(err.kind(), ErrorKind::InvalidArgument);
    let response = served
        .call("/greeter.Greeter/Echo", many(&["\"a\"", "1", "\"b\""]))
        .await
        .unwrap();
    let (texts, err) = texts(response.body).await;
    assert_eq!(texts, ["\"a\""]);
    assert_eq!(err.unwrap().kind(), ErrorKind::InvalidArgument);
}

#[tokio::test]
async fn a_panic_fails_its_call_only_and_says_nothing_of_itself() {
    let served = greeting().await;
    let err = served
        .call("/greeter.Greeter/Hello", one("\"panic\""))
        .await
        .unwrap_err();
    assert_eq!(err.kind(), ErrorKind::Internal);
    assert!(!format!("{err:?}").contains("hunter2"));

    let response = served
        .call("/greeter.Greeter/Count", one("200"))
        .await
        .unwrap();
    let (texts, err) = texts(response.body).await;
    assert_eq!(texts.len(), 99);
    let err = err.unwrap();
    assert_eq!(err.kind(), ErrorKind::Internal);
    assert!(!format!("{err:?}").contains("ninety"));

    assert!(
        served
            .call("/greeter.Greeter/Hello", one("\"Ada\""))
            .await
            .is_ok()
    );
}

#[tokio::test]
async fn what_a_handler_says_of_its_own_calls_is_not_said_of_it() {
    let opts = HandlerOptions::default().with_codecs(codecs());
    let handler = ServerHandler::new("greeter", vec![greeter()], opts).unwrap();
    let request = request("/greeter.Greeter/Hello", one("\"unprocessed\""));
    let (cx, _canceller) = Context::serve(None, Metadata::new());
    let err = handler.call(cx, request).await.unwrap_err();
    assert_eq!(err.kind(), ErrorKind::Unavailable);
    assert!(!err.is_unprocessed());
}

#[tokio::test]
async fn everything_is_counted() {
    let served = greeting().await;
    let hello = "/greeter.Greeter/Hello";
    served.call(hello, one("\"Ada\"")).await.unwrap();
    served.call(hello, one("\"panic\"")).await.unwrap_err();
    let stream = served
        .call("/greeter.Greeter/Count", one("9"))
        .await
        .unwrap();
    let stats = |path: &str| {
        let stats = served.handler.stats();
        let found = stats.methods.iter().find(|method| &*method.path == path);
        let found = found.unwrap();
        (found.calls, found.errors, found.cancelled, found.in_flight)
    };
    assert_eq!(stats(hello), (2, 1, 0, 0));
    texts(stream.body).await;
    assert_eq!(stats("/greeter.Greeter/Count"), (1, 0, 0, 0));

    let cx = Context::new().with_timeout(Duration::from_millis(20));
    let never = futures_util::stream::pending();
    let err = served
        .connection
        .call(
            &cx,
            request("/greeter.Greeter/Sum", Body::Stream(Box::pin(never))),
        )
        .await
        .unwrap_err();
    assert_eq!(err.kind(), ErrorKind::DeadlineExceeded);
    assert_eq!(stats("/greeter.Greeter/Sum"), (1, 0, 1, 0));
}

/// Writes its name around the call.
#[derive(Debug)]
struct Mark(&'static str);

#[async_trait]
impl Middleware for Mark {
    async fn call(&self, cx: &Context, request: Request, next: Next<'_>) -> Result<Response> {
        assert_eq!(&*request.path, "/greeter.Greeter/Hello");
        if cx.metadata().contains("x-panic") {
            panic!("in the middleware");
        }
        let cx = cx.clone().with_identity(Identity::new(self.0));
        let mut response = next.run(&cx, request).await?;
        response.metadata.append("x-mark", self.0)?;
        Ok(response)
    }
}

#[tokio::test]
async fn the_first_middleware_is_the_outermost_and_sees_the_canonical_path() {
    let opts = HandlerOptions::default()
        .with_codecs(codecs())
        .with_middleware(Mark("outer"))
        .with_middleware(Mark("inner"));
    let served = serve(vec![greeter()], opts).await;
    for path in ["/any.Greeter/Hello", "Greeter.Hello"] {
        let response = served.call(path, one("\"Ada\"")).await.unwrap();
        let marks: Vec<_> = response.metadata.get_all("x-mark").cloned().collect();
        assert_eq!(marks, [Bytes::from("inner"), Bytes::from("outer")]);
    }
    let mut metadata = Metadata::new();
    metadata.insert("x-panic", "1").unwrap();
    let request = request("/greeter.Greeter/Hello", one("\"Ada\"")).with_metadata(metadata);
    let err = served
        .connection
        .call(&Context::new(), request)
        .await
        .unwrap_err();
    assert_eq!(err.kind(), ErrorKind::Internal);
}

#[tokio::test]
async fn handlers_need_no_contract() {
    let routes = Routes::dynamic("Bytes")
        .unary(
            "Reverse",
            shape!(RawBytes),
            shape!(RawBytes),
            |_cx, bytes: RawBytes| async move {
                Ok(RawBytes(bytes.0.iter().rev().copied().collect::<Bytes>()))
            },
        )
        .raw(
            "Proxy",
            MethodKind::Unary,
            |_cx, request: Request| async move {
                let content_type = request.content_type.clone();
                Ok(Response::new(content_type, request.body))
            },
        );
    let opts = HandlerOptions::default().with_codecs(codecs());
    let served = serve(vec![routes], opts).await;
    for content_type in ["application/json", "application/octet-stream"] {
        let request = Request::new("/greeter.Bytes/Reverse", content_type, one("abc"));
        let response = served.connection.call(&Context::new(), request).await;
        assert_eq!(text(&response.unwrap()), "cba");
    }
    // A raw handler gets what no codec knows.
    let request = Request::new("/greeter.Bytes/Proxy", "text/plain", one("abc"));
    let response = served
        .connection
        .call(&Context::new(), request)
        .await
        .unwrap();
    assert_eq!(
        (text(&response), &*response.content_type),
        ("abc", "text/plain")
    );
}

#[tokio::test]
async fn dropping_the_reply_drops_the_handler_s_stream() {
    let (sender, replies) = micro_core::Streaming::<u64>::channel(1);
    let replies = std::sync::Mutex::new(Some(replies));
    let routes = Routes::dynamic("Clock").server_streaming(
        "Ticks",
        shape!(u64),
        shape!(u64),
        move |_cx, _from: u64| {
            let replies = replies.lock().unwrap().take();
            async move { replies.ok_or_else(|| micro_core::Error::not_found("taken")) }
        },
    );
    let opts = HandlerOptions::default().with_codecs(codecs());
    let served = serve(vec![routes], opts).await;
    let response = served.call("/greeter.Clock/Ticks", one("0")).await.unwrap();
    assert_eq!(served.handler.stats().in_flight(), 1);
    drop(response);
    sender.closed().await;
    while served.handler.stats().in_flight() > 0 {
        tokio::task::yield_now().await;
    }
}
