//! Made from `kinds.proto` by tonic-prost-build; `MICRO_BLESS=1` makes it anew.

#![allow(warnings, clippy::all, reason = "nobody wrote this")]

#[derive(Clone, PartialEq, ::prost::Message)]
pub struct Everything {
    #[prost(bool, tag = "1")]
    pub flag: bool,
    #[prost(int32, tag = "2")]
    pub int32: i32,
    #[prost(int64, tag = "3")]
    pub int64: i64,
    #[prost(uint32, tag = "4")]
    pub uint32: u32,
    #[prost(uint64, tag = "5")]
    pub uint64: u64,
    #[prost(float, tag = "6")]
    pub float: f32,
    #[prost(double, tag = "7")]
    pub double: f64,
    #[prost(string, tag = "8")]
    pub text: ::prost::alloc::string::String,
    #[prost(bytes = "vec", tag = "9")]
    pub raw: ::prost::alloc::vec::Vec<u8>,
    #[prost(int32, optional, tag = "10")]
    pub maybe_number: ::core::option::Option<i32>,
    #[prost(string, optional, tag = "11")]
    pub maybe_text: ::core::option::Option<::prost::alloc::string::String>,
    #[prost(int64, repeated, tag = "12")]
    pub numbers: ::prost::alloc::vec::Vec<i64>,
    #[prost(string, repeated, tag = "13")]
    pub texts: ::prost::alloc::vec::Vec<::prost::alloc::string::String>,
    #[prost(bytes = "vec", repeated, tag = "14")]
    pub raws: ::prost::alloc::vec::Vec<::prost::alloc::vec::Vec<u8>>,
    #[prost(message, optional, tag = "15")]
    pub inner: ::core::option::Option<Inner>,
    #[prost(message, optional, tag = "16")]
    pub maybe_inner: ::core::option::Option<Inner>,
    #[prost(message, repeated, tag = "17")]
    pub inners: ::prost::alloc::vec::Vec<Inner>,
    #[prost(enumeration = "Color", tag = "18")]
    pub color: i32,
    #[prost(enumeration = "Color", repeated, tag = "19")]
    pub colors: ::prost::alloc::vec::Vec<i32>,
    #[prost(map = "string, uint32", tag = "20")]
    pub by_name: ::std::collections::HashMap<::prost::alloc::string::String, u32>,
    #[prost(map = "int32, message", tag = "21")]
    pub by_number: ::std::collections::HashMap<i32, Inner>,
    #[prost(message, optional, tag = "22")]
    pub took: ::core::option::Option<::prost_types::Duration>,
    #[prost(message, optional, tag = "23")]
    pub at: ::core::option::Option<::prost_types::Timestamp>,
    #[prost(message, optional, boxed, tag = "24")]
    pub next: ::core::option::Option<::prost::alloc::boxed::Box<Everything>>,
    /// A keyword in Rust.
    #[prost(string, tag = "25")]
    pub r#type: ::prost::alloc::string::String,
}
#[derive(Clone, PartialEq, Eq, Hash, ::prost::Message)]
pub struct Inner {
    #[prost(uint64, tag = "2")]
    pub id: u64,
    #[prost(string, tag = "1")]
    pub name: ::prost::alloc::string::String,
}
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, ::prost::Enumeration)]
#[repr(i32)]
pub enum Color {
    Unspecified = 0,
    Red = 5,
    DeepBlue = 6,
}
impl Color {
    /// String value of the enum field names used in the ProtoBuf definition.
    ///
    /// The values are not transformed in any way and thus are considered stable
    /// (if the ProtoBuf definition does not change) and safe for programmatic use.
    pub fn as_str_name(&self) -> &'static str {
        match self {
            Self::Unspecified => "COLOR_UNSPECIFIED",
            Self::Red => "COLOR_RED",
            Self::DeepBlue => "COLOR_DEEP_BLUE",
        }
    }
    /// Creates an enum from field names used in the ProtoBuf definition.
    pub fn from_str_name(value: &str) -> ::core::option::Option<Self> {
        match value {
            "COLOR_UNSPECIFIED" => Some(Self::Unspecified),
            "COLOR_RED" => Some(Self::Red),
            "COLOR_DEEP_BLUE" => Some(Self::DeepBlue),
            _ => None,
        }
    }
}
/// Generated client implementations.
pub mod kinds_client {
    #![allow(
        unused_variables,
        dead_code,
        missing_docs,
        clippy::wildcard_imports,
        clippy::let_unit_value,
    )]
    use tonic::codegen::*;
    use tonic::codegen::http::Uri;
    /// Has a package of its own, so the registry name is not in its path.
    #[derive(Debug, Clone)]
    pub struct KindsClient<T> {
        inner: tonic::client::Grpc<T>,
    }
    impl<T> KindsClient<T>
    where
        T: tonic::client::GrpcService<tonic::body::Body>,
        T::Error: Into<StdError>,
        T::ResponseBody: Body<Data = Bytes> + std::marker::Send + 'static,
        <T::ResponseBody as Body>::Error: Into<StdError> + std::marker::Send,
    {
        pub fn new(inner: T) -> Self {
            let inner = tonic::client::Grpc::new(inner);
            Self { inner }
        }
        pub fn with_origin(inner: T, origin: Uri) -> Self {
            let inner = tonic::client::Grpc::with_origin(inner, origin);
            Self { inner }
        }
        pub fn with_interceptor<F>(
            inner: T,
            interceptor: F,
        ) -> KindsClient<InterceptedService<T, F>>
        where
            F: tonic::service::Interceptor,
            T::ResponseBody: Default,
            T: tonic::codegen::Service<
                http::Request<tonic::body::Body>,
                Response = http::Response<
                    <T as tonic::client::GrpcService<tonic::body::Body>>::ResponseBody,
                >,
            >,
            <T as tonic::codegen::Service<
                http::Request<tonic::body::Body>,
            >>::Error: Into<StdError> + std::marker::Send + std::marker::Sync,
        {
            KindsClient::new(InterceptedService::new(inner, interceptor))
        }
        /// Compress requests with the given encoding.
        ///
        /// This requires the server to support it otherwise it might respond with an
        /// error.
        #[must_use]
        pub fn send_compressed(mut self, encoding: CompressionEncoding) -> Self {
            self.inner = self.inner.send_compressed(encoding);
            self
        }
        /// Enable decompressing responses.
        #[must_use]
        pub fn accept_compressed(mut self, encoding: CompressionEncoding) -> Self {
            self.inner = self.inner.accept_compressed(encoding);
            self
        }
        /// Limits the maximum size of a decoded message.
        ///
        /// Default: `4MB`
        #[must_use]
        pub fn max_decoding_message_size(mut self, limit: usize) -> Self {
            self.inner = self.inner.max_decoding_message_size(limit);
            self
        }
        /// Limits the maximum size of an encoded message.
        ///
        /// Default: `usize::MAX`
        #[must_use]
        pub fn max_encoding_message_size(mut self, limit: usize) -> Self {
            self.inner = self.inner.max_encoding_message_size(limit);
            self
        }
        /// Answers with the same, with the binary metadata `x-raw-bin`, and in `x-is-full` with
        /// whether it is [`Everything::full`].
        pub async fn echo(
            &mut self,
            request: impl tonic::IntoRequest<super::Everything>,
        ) -> std::result::Result<tonic::Response<super::Everything>, tonic::Status> {
            self.inner
                .ready()
                .await
                .map_err(|e| {
                    tonic::Status::unknown(
                        format!("Service was not ready: {}", e.into()),
                    )
                })?;
            let codec = tonic_prost::ProstCodec::default();
            let path = http::uri::PathAndQuery::from_static("/kinds.v1.Kinds/Echo");
            let mut req = request.into_request();
            req.extensions_mut().insert(GrpcMethod::new("kinds.v1.Kinds", "Echo"));
            self.inner.unary(req, path, codec).await
        }
        /// Fails with a detail.
        pub async fn refuse(
            &mut self,
            request: impl tonic::IntoRequest<super::Inner>,
        ) -> std::result::Result<tonic::Response<super::Inner>, tonic::Status> {
            self.inner
                .ready()
                .await
                .map_err(|e| {
                    tonic::Status::unknown(
                        format!("Service was not ready: {}", e.into()),
                    )
                })?;
            let codec = tonic_prost::ProstCodec::default();
            let path = http::uri::PathAndQuery::from_static("/kinds.v1.Kinds/Refuse");
            let mut req = request.into_request();
            req.extensions_mut().insert(GrpcMethod::new("kinds.v1.Kinds", "Refuse"));
            self.inner.unary(req, path, codec).await
        }
    }
}
/// Generated server implementations.
pub mod kinds_server {
    #![allow(
        unused_variables,
        dead_code,
        missing_docs,
        clippy::wildcard_imports,
        clippy::let_unit_value,
    )]
    use tonic::codegen::*;
    /// Generated trait containing gRPC methods that should be implemented for use with KindsServer.
    #[async_trait]
    pub trait Kinds: std::marker::Send + std::marker::Sync + 'static {
        /// Answers with the same, with the binary metadata `x-raw-bin`, and in `x-is-full` with
        /// whether it is [`Everything::full`].
        async fn echo(
            &self,
            request: tonic::Request<super::Everything>,
        ) -> std::result::Result<tonic::Response<super::Everything>, tonic::Status>;
        /// Fails with a detail.
        async fn refuse(
            &self,
            request: tonic::Request<super::Inner>,
        ) -> std::result::Result<tonic::Response<super::Inner>, tonic::Status>;
    }
    /// Has a package of its own, so the registry name is not in its path.
    #[derive(Debug)]
    pub struct KindsServer<T> {
        inner: Arc<T>,
        accept_compression_encodings: EnabledCompressionEncodings,
        send_compression_encodings: EnabledCompressionEncodings,
        max_decoding_message_size: Option<usize>,
        max_encoding_message_size: Option<usize>,
    }
    impl<T> KindsServer<T> {
        pub fn new(inner: T) -> Self {
            Self::from_arc(Arc::new(inner))
        }
        pub fn from_arc(inner: Arc<T>) -> Self {
            Self {
                inner,
                accept_compression_encodings: Default::default(),
                send_compression_encodings: Default::default(),
                max_decoding_message_size: None,
                max_encoding_message_size: None,
            }
        }
        pub fn with_interceptor<F>(
            inner: T,
            interceptor: F,
        ) -> InterceptedService<Self, F>
        where
            F: tonic::service::Interceptor,
        {
            InterceptedService::new(Self::new(inner), interceptor)
        }
        /// Enable decompressing requests with the given encoding.
        #[must_use]
        pub fn accept_compressed(mut self, encoding: CompressionEncoding) -> Self {
            self.accept_compression_encodings.enable(encoding);
            self
        }
        /// Compress responses with the given encoding, if the client supports it.
        #[must_use]
        pub fn send_compressed(mut self, encoding: CompressionEncoding) -> Self {
            self.send_compression_encodings.enable(encoding);
            self
        }
        /// Limits the maximum size of a decoded message.
        ///
        /// Default: `4MB`
        #[must_use]
        pub fn max_decoding_message_size(mut self, limit: usize) -> Self {
            self.max_decoding_message_size = Some(limit);
            self
        }
        /// Limits the maximum size of an encoded message.
        ///
        /// Default: `usize::MAX`
        #[must_use]
        pub fn max_encoding_message_size(mut self, limit: usize) -> Self {
            self.max_encoding_message_size = Some(limit);
            self
        }
    }
    impl<T, B> tonic::codegen::Service<http::Request<B>> for KindsServer<T>
    where
        T: Kinds,
        B: Body + std::marker::Send + 'static,
        B::Error: Into<StdError> + std::marker::Send + 'static,
    {
        type Response = http::Response<tonic::body::Body>;
        type Error = std::convert::Infallible;
        type Future = BoxFuture<Self::Response, Self::Error>;
        fn poll_ready(
            &mut self,
            _cx: &mut Context<'_>,
        ) -> Poll<std::result::Result<(), Self::Error>> {
            Poll::Ready(Ok(()))
        }
        fn call(&mut self, req: http::Request<B>) -> Self::Future {
            match req.uri().path() {
                "/kinds.v1.Kinds/Echo" => {
                    #[allow(non_camel_case_types)]
                    struct EchoSvc<T: Kinds>(pub Arc<T>);
                    impl<T: Kinds> tonic::server::UnaryService<super::Everything>
                    for EchoSvc<T> {
                        type Response = super::Everything;
                        type Future = BoxFuture<
                            tonic::Response<Self::Response>,
                            tonic::Status,
                        >;
                        fn call(
                            &mut self,
                            request: tonic::Request<super::Everything>,
                        ) -> Self::Future {
                            let inner = Arc::clone(&self.0);
                            let fut = async move {
                                <T as Kinds>::echo(&inner, request).await
                            };
                            Box::pin(fut)
                        }
                    }
                    let accept_compression_encodings = self.accept_compression_encodings;
                    let send_compression_encodings = self.send_compression_encodings;
                    let max_decoding_message_size = self.max_decoding_message_size;
                    let max_encoding_message_size = self.max_encoding_message_size;
                    let inner = self.inner.clone();
                    let fut = async move {
                        let method = EchoSvc(inner);
                        let codec = tonic_prost::ProstCodec::default();
                        let mut grpc = tonic::server::Grpc::new(codec)
                            .apply_compression_config(
                                accept_compression_encodings,
                                send_compression_encodings,
                            )
                            .apply_max_message_size_config(
                                max_decoding_message_size,
                                max_encoding_message_size,
                            );
                        let res = grpc.unary(method, req).await;
                        Ok(res)
                    };
                    Box::pin(fut)
                }
                "/kinds.v1.Kinds/Refuse" => {
                    #[allow(non_camel_case_types)]
                    struct RefuseSvc<T: Kinds>(pub Arc<T>);
                    impl<T: Kinds> tonic::server::UnaryService<super::Inner>
                    for RefuseSvc<T> {
                        type Response = super::Inner;
                        type Future = BoxFuture<
                            tonic::Response<Self::Response>,
                            tonic::Status,
                        >;
                        fn call(
                            &mut self,
                            request: tonic::Request<super::Inner>,
                        ) -> Self::Future {
                            let inner = Arc::clone(&self.0);
                            let fut = async move {
                                <T as Kinds>::refuse(&inner, request).await
                            };
                            Box::pin(fut)
                        }
                    }
                    let accept_compression_encodings = self.accept_compression_encodings;
                    let send_compression_encodings = self.send_compression_encodings;
                    let max_decoding_message_size = self.max_decoding_message_size;
                    let max_encoding_message_size = self.max_encoding_message_size;
                    let inner = self.inner.clone();
                    let fut = async move {
                        let method = RefuseSvc(inner);
                        let codec = tonic_prost::ProstCodec::default();
                        let mut grpc = tonic::server::Grpc::new(codec)
                            .apply_compression_config(
                                accept_compression_encodings,
                                send_compression_encodings,
                            )
                            .apply_max_message_size_config(
                                max_decoding_message_size,
                                max_encoding_message_size,
                            );
                        let res = grpc.unary(method, req).await;
                        Ok(res)
                    };
                    Box::pin(fut)
                }
                _ => {
                    Box::pin(async move {
                        let mut response = http::Response::new(
                            tonic::body::Body::default(),
                        );
                        let headers = response.headers_mut();
                        headers
                            .insert(
                                tonic::Status::GRPC_STATUS,
                                (tonic::Code::Unimplemented as i32).into(),
                            );
                        headers
                            .insert(
                                http::header::CONTENT_TYPE,
                                tonic::metadata::GRPC_CONTENT_TYPE,
                            );
                        Ok(response)
                    })
                }
            }
        }
    }
    impl<T> Clone for KindsServer<T> {
        fn clone(&self) -> Self {
            let inner = self.inner.clone();
            Self {
                inner,
                accept_compression_encodings: self.accept_compression_encodings,
                send_compression_encodings: self.send_compression_encodings,
                max_decoding_message_size: self.max_decoding_message_size,
                max_encoding_message_size: self.max_encoding_message_size,
            }
        }
    }
    /// Generated gRPC service name
    pub const SERVICE_NAME: &str = "kinds.v1.Kinds";
    impl<T> tonic::server::NamedService for KindsServer<T> {
        const NAME: &'static str = SERVICE_NAME;
    }
}
