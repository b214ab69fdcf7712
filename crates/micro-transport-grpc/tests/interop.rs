//! With a plain tonic on the other side: both ways, every shape, over a real socket.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{Stream, StreamExt as _};
use micro_core::{Detail, Error, ErrorKind, Metadata};
use micro_transport_core::{
    Body, BoxFuture, Connection, Context, DialOptions, Handler, ListenOptions, Live, Request,
    Response, Result, Stop, Transport as _,
};
use micro_transport_grpc::GrpcTransport;
use prost::Message as _;
use tonic::metadata::MetadataValue;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};
use tonic_prost::ProstCodec;

/// One message for all: a number and some bytes.
#[derive(Clone, PartialEq, prost::Message)]
struct Item {
    #[prost(uint32, tag = "1")]
    number: u32,
    #[prost(bytes = "bytes", tag = "2")]
    data: Bytes,
}

fn item(number: u32, size: usize) -> Item {
    Item {
        number,
        data: vec![7; size].into(),
    }
}

type Codec = ProstCodec<Item, Item>;

/// A plain tonic client of a micro listener.
mod tonic_client {
    use super::*;

    #[derive(Debug)]
    struct Service;

    impl Handler for Service {
        fn call(
            self: Arc<Self>,
            cx: Context,
            request: Request,
        ) -> BoxFuture<'static, Result<Response>> {
            Box::pin(async move {
                assert_eq!(request.content_type, "application/protobuf");
                let reply = |body| Response::new("application/protobuf", body);
                match request.path.as_ref() {
                    "/interop.T/Unary" => {
                        let message = one(request.body).await?;
                        let mut metadata = Metadata::new();
                        for name in ["x-echo", "x-echo-bin"] {
                            for value in request.metadata.get_all(name) {
                                metadata.append(name, value)?;
                            }
                        }
                        Ok(reply(Body::Message(message)).with_metadata(metadata))
                    }
                    "/interop.T/ServerStream" => {
                        let first = Item::decode(one(request.body).await?).unwrap();
                        let size = first.data.len();
                        let stream = futures_util::stream::iter(
                            (0..first.number)
                                .map(move |i| Ok(item(i, size).encode_to_vec().into())),
                        );
                        Ok(reply(Body::Stream(Box::pin(stream))))
                    }
                    "/interop.T/ClientStream" => {
                        let Body::Stream(mut stream) = request.body else {
                            return Ok(reply(request.body));
                        };
                        let (mut count, mut size) = (0, 0);
                        while let Some(message) = stream.next().await {
                            count += 1;
                            size += Item::decode(message?).unwrap().data.len();
                        }
                        Ok(reply(Body::Message(
                            item(count, size).encode_to_vec().into(),
                        )))
                    }
                    "/interop.T/Bidi" => Ok(reply(request.body)),
                    "/interop.T/Fail" => Err(Error::locked("held by ü\n100 %")
                        .with_detail(Detail::new("type.googleapis.com/x.Y", &b"\x01\x02"[..]))),
                    "/interop.T/Sleep" => {
                        assert!(cx.remaining().unwrap() <= Duration::from_millis(200));
                        std::future::pending().await
                    }
                    _ => Err(Error::unimplemented("no such method")),
                }
            })
        }
    }

    async fn one(body: Body) -> Result<Bytes> {
        match body {
            Body::Message(message) => Ok(message),
            Body::Stream(mut stream) => {
                let first = stream.next().await.unwrap()?;
                assert!(stream.next().await.is_none());
                Ok(first)
            }
            _ => Err(Error::internal("an unknown body")),
        }
    }

    async fn start() -> tonic::client::Grpc<Channel> {
        let listener = GrpcTransport::new()
            .listen("127.0.0.1:0", ListenOptions::default())
            .await
            .unwrap();
        let address = listener.address();
        tokio::spawn(listener.serve(Arc::new(Service), Live::constant(Stop::Run)));
        let channel = Endpoint::from_shared(format!("http://{address}"))
            .unwrap()
            .connect()
            .await
            .unwrap();
        tonic::client::Grpc::new(channel)
    }

    fn path(method: &str) -> http::uri::PathAndQuery {
        format!("/interop.T/{method}").parse().unwrap()
    }

    #[tokio::test]
    async fn unary() {
        let mut client = start().await;
        for size in [0, 1, 1000, 100_000, 3_000_000] {
            let mut request = tonic::Request::new(item(1, size));
            request
                .metadata_mut()
                .insert("x-echo", "acme".parse().unwrap());
            request
                .metadata_mut()
                .insert_bin("x-echo-bin", MetadataValue::from_bytes(&[0, 255]));
            client.ready().await.unwrap();
            let reply: tonic::Response<Item> = client
                .unary(request, path("Unary"), Codec::default())
                .await
                .unwrap();
            assert_eq!(reply.metadata().get("x-echo").unwrap(), "acme");
            let binary = reply.metadata().get_bin("x-echo-bin").unwrap();
            assert_eq!(binary.to_bytes().unwrap(), &[0, 255][..]);
            assert_eq!(reply.into_inner(), item(1, size));
        }
    }

    #[tokio::test]
    async fn streams() {
        let mut client = start().await;
        for (count, size) in [(0, 1), (1, 10), (1000, 100), (20, 200_000)] {
            client.ready().await.unwrap();
            let reply: tonic::Response<tonic::Streaming<Item>> = client
                .server_streaming(
                    tonic::Request::new(item(count, size)),
                    path("ServerStream"),
                    Codec::default(),
                )
                .await
                .unwrap();
            let all: Vec<_> = reply
                .into_inner()
                .map(|item| item.unwrap().number)
                .collect()
                .await;
            assert_eq!(all, (0..count).collect::<Vec<_>>());

            let sent = futures_util::stream::iter((0..count).map(move |i| item(i, size)));
            client.ready().await.unwrap();
            let reply: tonic::Response<Item> = client
                .client_streaming(
                    tonic::Request::new(sent),
                    path("ClientStream"),
                    Codec::default(),
                )
                .await
                .unwrap();
            if count != 1 {
                assert_eq!(reply.into_inner(), item(count, count as usize * size));
            }

            let sent = futures_util::stream::iter((0..count).map(move |i| item(i, size)));
            client.ready().await.unwrap();
            let reply: tonic::Response<tonic::Streaming<Item>> = client
                .streaming(tonic::Request::new(sent), path("Bidi"), Codec::default())
                .await
                .unwrap();
            let all: Vec<_> = reply
                .into_inner()
                .map(|item| item.unwrap().number)
                .collect()
                .await;
            assert_eq!(all, (0..count).collect::<Vec<_>>());
        }
    }

    #[tokio::test]
    async fn errors_and_deadlines() {
        let mut client = start().await;
        let call = tonic::Request::new(item(0, 0));
        client.ready().await.unwrap();
        let status = client
            .unary::<Item, Item, _>(call, path("Fail"), Codec::default())
            .await
            .unwrap_err();
        assert_eq!(status.code(), Code::Aborted);
        assert_eq!(status.message(), "held by ü\n100 %");
        let details = String::from_utf8_lossy(status.details()).into_owned();
        assert!(
            details.contains("LOCKED") && details.contains("x.Y"),
            "{details:?}"
        );

        let call = tonic::Request::new(item(0, 0));
        client.ready().await.unwrap();
        let status = client
            .unary::<Item, Item, _>(call, path("Nothing"), Codec::default())
            .await
            .unwrap_err();
        assert_eq!(status.code(), Code::Unimplemented);

        // tonic's own timer says `Cancelled`, and is as likely to come first.
        let mut call = tonic::Request::new(item(0, 0));
        call.metadata_mut()
            .insert("grpc-timeout", "100m".parse().unwrap());
        client.ready().await.unwrap();
        let status = client
            .unary::<Item, Item, _>(call, path("Sleep"), Codec::default())
            .await
            .unwrap_err();
        assert!(matches!(
            status.code(),
            Code::DeadlineExceeded | Code::Cancelled
        ));
    }
}

/// A plain tonic server of a micro connection.
mod tonic_server {
    use super::*;

    type Items = Pin<Box<dyn Stream<Item = Result<Item, Status>> + Send>>;

    #[derive(Clone)]
    struct Service;

    impl tonic::server::NamedService for Service {
        const NAME: &'static str = "interop.T";
    }

    struct Method(&'static str);

    impl tonic::server::UnaryService<Item> for Method {
        type Response = Item;
        type Future = BoxFuture<'static, Result<tonic::Response<Item>, Status>>;

        fn call(&mut self, request: tonic::Request<Item>) -> Self::Future {
            let method = self.0;
            Box::pin(async move {
                match method {
                    "Unary" => {
                        let timeout = request.metadata().get("grpc-timeout").cloned();
                        let echo = request.metadata().get("x-echo").cloned();
                        let binary = request.metadata().get_bin("x-echo-bin").cloned();
                        let mut reply = tonic::Response::new(request.into_inner());
                        if let Some(echo) = echo {
                            reply.metadata_mut().insert("x-echo", echo);
                        }
                        if let Some(binary) = binary {
                            reply.metadata_mut().insert_bin("x-echo-bin", binary);
                        }
                        if let Some(timeout) = timeout {
                            reply.metadata_mut().insert("x-timeout", timeout);
                        }
                        Ok(reply)
                    }
                    "Sleep" => std::future::pending().await,
                    _ => Err(Status::with_details(
                        Code::FailedPrecondition,
                        "not ü\n100 %",
                        Bytes::from_static(b"\x08\x09"),
                    )),
                }
            })
        }
    }

    impl tonic::server::ServerStreamingService<Item> for Method {
        type Response = Item;
        type ResponseStream = Items;
        type Future = BoxFuture<'static, Result<tonic::Response<Items>, Status>>;

        fn call(&mut self, request: tonic::Request<Item>) -> Self::Future {
            Box::pin(async move {
                let first = request.into_inner();
                let size = first.data.len();
                let items = (0..first.number).map(move |i| Ok(item(i, size)));
                let late = futures_util::stream::iter(
                    (first.number == 7).then(|| Err(Status::aborted("after seven"))),
                );
                let all: Items = Box::pin(futures_util::stream::iter(items).chain(late));
                Ok(tonic::Response::new(all))
            })
        }
    }

    impl tonic::server::ClientStreamingService<Item> for Method {
        type Response = Item;
        type Future = BoxFuture<'static, Result<tonic::Response<Item>, Status>>;

        fn call(&mut self, request: tonic::Request<tonic::Streaming<Item>>) -> Self::Future {
            Box::pin(async move {
                let (mut count, mut size) = (0, 0);
                let mut stream = request.into_inner();
                while let Some(item) = stream.next().await {
                    count += 1;
                    size += item?.data.len();
                }
                Ok(tonic::Response::new(item(count, size)))
            })
        }
    }

    impl tonic::server::StreamingService<Item> for Method {
        type Response = Item;
        type ResponseStream = Items;
        type Future = BoxFuture<'static, Result<tonic::Response<Items>, Status>>;

        fn call(&mut self, request: tonic::Request<tonic::Streaming<Item>>) -> Self::Future {
            let all: Items = Box::pin(request.into_inner());
            Box::pin(async move { Ok(tonic::Response::new(all)) })
        }
    }

    impl tower_service::Service<http::Request<tonic::body::Body>> for Service {
        type Response = http::Response<tonic::body::Body>;
        type Error = Infallible;
        type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

        fn poll_ready(&mut self, _: &mut TaskContext<'_>) -> Poll<Result<(), Infallible>> {
            Poll::Ready(Ok(()))
        }

        fn call(&mut self, request: http::Request<tonic::body::Body>) -> Self::Future {
            Box::pin(async move {
                let mut grpc = tonic::server::Grpc::new(Codec::default());
                Ok(match request.uri().path() {
                    "/interop.T/Unary" => grpc.unary(Method("Unary"), request).await,
                    "/interop.T/Sleep" => grpc.unary(Method("Sleep"), request).await,
                    "/interop.T/ServerStream" => grpc.server_streaming(Method(""), request).await,
                    "/interop.T/ClientStream" => grpc.client_streaming(Method(""), request).await,
                    "/interop.T/Bidi" => grpc.streaming(Method(""), request).await,
                    _ => grpc.unary(Method("Fail"), request).await,
                })
            })
        }
    }

    async fn start() -> Arc<dyn Connection> {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let incoming = tonic::transport::server::TcpIncoming::from(listener);
        tokio::spawn(
            tonic::transport::Server::builder()
                .add_service(Service)
                .serve_with_incoming(incoming),
        );
        GrpcTransport::new()
            .dial(&address, DialOptions::default())
            .await
            .unwrap()
    }

    fn request(method: &str, body: Body) -> Request {
        Request::new(format!("/interop.T/{method}"), "application/protobuf", body)
    }

    fn message(item: &Item) -> Body {
        Body::Message(item.encode_to_vec().into())
    }

    async fn all(body: Body) -> Result<Vec<Item>> {
        match body {
            Body::Message(message) => Ok(vec![Item::decode(message).unwrap()]),
            Body::Stream(mut stream) => {
                let mut all = Vec::new();
                while let Some(message) = stream.next().await {
                    all.push(Item::decode(message?).unwrap());
                }
                Ok(all)
            }
            _ => Err(Error::internal("an unknown body")),
        }
    }

    #[tokio::test]
    async fn unary() {
        let node = start().await;
        for size in [0, 1, 1000, 100_000, 3_000_000] {
            let mut metadata = Metadata::new();
            metadata.append("x-echo", "acme").unwrap();
            metadata.append("x-echo-bin", [0, 255]).unwrap();
            let call = request("Unary", message(&item(1, size))).with_metadata(metadata);
            let cx = Context::new().with_timeout(Duration::from_secs(5));
            let reply = node.call(&cx, call).await.unwrap();
            assert_eq!(reply.content_type, "application/protobuf");
            assert_eq!(reply.metadata.get("x-echo"), Some("acme"));
            assert_eq!(
                reply.metadata.get_bytes("x-echo-bin").unwrap(),
                &[0, 255][..]
            );
            let timeout = reply.metadata.get("x-timeout").unwrap().to_owned();
            assert!(
                timeout.starts_with("49") && timeout.ends_with('u'),
                "{timeout}"
            );
            assert_eq!(all(reply.body).await.unwrap(), [item(1, size)]);
        }
    }

    #[tokio::test]
    async fn streams() {
        let node = start().await;
        let cx = Context::new();
        for (count, size) in [(0, 1), (1, 10), (1000, 100), (20, 200_000)] {
            let call = request("ServerStream", message(&item(count, size)));
            let got = all(node.call(&cx, call).await.unwrap().body).await.unwrap();
            assert_eq!(got.len(), count as usize);

            let items = move || {
                let items = (0..count).map(move |i| Ok(item(i, size).encode_to_vec().into()));
                Body::Stream(Box::pin(futures_util::stream::iter(items)))
            };
            let reply = node
                .call(&cx, request("ClientStream", items()))
                .await
                .unwrap();
            let got = all(reply.body).await.unwrap();
            assert_eq!(got, [item(count, count as usize * size)]);

            let reply = node.call(&cx, request("Bidi", items())).await.unwrap();
            let got = all(reply.body).await.unwrap();
            assert_eq!(got.len(), count as usize);
        }
        let call = request("ServerStream", message(&item(7, 1)));
        let err = all(node.call(&cx, call).await.unwrap().body)
            .await
            .unwrap_err();
        assert_eq!(
            (err.kind(), err.message()),
            (ErrorKind::Aborted, "after seven")
        );
    }

    #[tokio::test]
    async fn errors_and_cancellation() {
        let node = start().await;
        let cx = Context::new();
        let err = node
            .call(&cx, request("Fail", message(&item(0, 0))))
            .await
            .unwrap_err();
        assert_eq!(err.kind(), ErrorKind::FailedPrecondition);
        assert_eq!(err.message(), "not ü\n100 %");
        let call = node.call(&cx, request("Sleep", message(&item(0, 0))));
        assert!(
            tokio::time::timeout(Duration::from_millis(30), call)
                .await
                .is_err()
        );
        let call = request("Unary", message(&item(3, 0)));
        let got = all(node.call(&cx, call).await.unwrap().body).await.unwrap();
        assert_eq!(got, [item(3, 0)]);
        // Another service on the same node.
        let call = Request::new("/other.T/X", "application/protobuf", message(&item(0, 0)));
        let err = node.call(&cx, call).await.unwrap_err();
        assert_eq!(err.kind(), ErrorKind::Unimplemented);
    }
}
