//! Which services, methods and messages there are, as `grpc.reflection` says it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;

use bytes::Bytes;
use futures_util::stream::unfold;
use micro_codec_core::shape;
use micro_core::{Context, Streaming};
use prost_types::{DescriptorProto, EnumDescriptorProto, FieldDescriptorProto};

use crate::health::{Health, stopping};
use crate::schema::Catalog;
use crate::{Reflection, Routes};

/// The files of a server by what is in them. It is built once and never changes.
#[derive(Debug, Default)]
pub(crate) struct Index {
    services: BTreeSet<String>,
    files: HashMap<String, Indexed>,
    /// The name of the file that defines a symbol, by the symbol's full name.
    symbols: HashMap<String, String>,
    /// The files that extend a message, by its full name and the field's number.
    extensions: HashMap<String, BTreeMap<i32, String>>,
}

#[derive(Debug)]
struct Indexed {
    encoded: Bytes,
    imports: Vec<String>,
}

/// What reflection is asked.
enum Question {
    File(String),
    Symbol(String),
    Extension(String, i32),
    Extensions(String),
    Services,
    None,
}

/// What it answers.
#[derive(Debug, PartialEq)]
enum Answer {
    Files(Vec<Bytes>),
    Extensions(String, Vec<i32>),
    Services(Vec<String>),
    /// A status code and a message.
    Failed(i32, String),
}

const NOT_FOUND: i32 = 5;
const INVALID_ARGUMENT: i32 = 3;

impl Index {
    /// Indexes the files and the services of these full names.
    pub(crate) fn new(catalog: Catalog, services: impl IntoIterator<Item = String>) -> Self {
        let mut index = Self {
            services: services.into_iter().collect(),
            ..Self::default()
        };
        for (name, file) in catalog.files {
            let descriptor = file.descriptor;
            let mut scan = Scan {
                index: &mut index,
                file: &name,
            };
            let package = descriptor.package();
            for message in &descriptor.message_type {
                scan.message(package, message);
            }
            for enumeration in &descriptor.enum_type {
                scan.enumeration(package, enumeration);
            }
            for extension in &descriptor.extension {
                scan.extension(package, extension);
            }
            for service in &descriptor.service {
                let service_name = scan.symbol(package, service.name());
                for method in &service.method {
                    scan.symbol(&service_name, method.name());
                }
            }
            let indexed = Indexed {
                encoded: file.encoded,
                imports: descriptor.dependency,
            };
            index.files.insert(name, indexed);
        }
        index
    }

    fn answer(&self, question: Question) -> Answer {
        match question {
            Question::File(name) if self.files.contains_key(&name) => {
                Answer::Files(self.with_imports(&name))
            }
            Question::File(_) => Answer::Failed(NOT_FOUND, "unknown file".to_owned()),
            Question::Symbol(symbol) => {
                let symbol = symbol.strip_prefix('.').unwrap_or(&symbol);
                match self.symbols.get(symbol) {
                    Some(file) => Answer::Files(self.with_imports(file)),
                    None => Answer::Failed(NOT_FOUND, "unknown symbol".to_owned()),
                }
            }
            Question::Extension(extended, number) => {
                let extensions = self.extensions.get(&extended);
                match extensions.and_then(|extensions| extensions.get(&number)) {
                    Some(file) => Answer::Files(self.with_imports(file)),
                    None => Answer::Failed(NOT_FOUND, "unknown extension".to_owned()),
                }
            }
            Question::Extensions(extended) if self.symbols.contains_key(&extended) => {
                let extensions = self.extensions.get(&extended);
                let numbers = extensions.into_iter().flat_map(BTreeMap::keys).copied();
                let numbers = numbers.collect();
                Answer::Extensions(extended, numbers)
            }
            Question::Extensions(_) => Answer::Failed(NOT_FOUND, "unknown type".to_owned()),
            Question::Services => Answer::Services(self.services.iter().cloned().collect()),
            Question::None => Answer::Failed(
                INVALID_ARGUMENT,
                "the request asks for nothing this server knows".to_owned(),
            ),
        }
    }

    /// The file, and all it imports, directly or not.
    fn with_imports(&self, name: &str) -> Vec<Bytes> {
        let mut names = vec![name];
        let mut files = Vec::new();
        let mut at = 0;
        while let Some(name) = names.get(at) {
            if let Some(file) = self.files.get(*name) {
                files.push(file.encoded.clone());
                for import in &file.imports {
                    if !names.contains(&import.as_str()) {
                        names.push(import);
                    }
                }
            }
            at += 1;
        }
        files
    }
}

/// Enters what is in one file.
struct Scan<'a> {
    index: &'a mut Index,
    file: &'a str,
}

impl Scan<'_> {
    fn symbol(&mut self, scope: &str, name: &str) -> String {
        let full_name = if scope.is_empty() {
            name.to_owned()
        } else {
            format!("{scope}.{name}")
        };
        // Between two files that define one symbol the first stands; see `Catalog::add`.
        let symbols = &mut self.index.symbols;
        symbols
            .entry(full_name.clone())
            .or_insert_with(|| self.file.to_owned());
        full_name
    }

    fn message(&mut self, scope: &str, message: &DescriptorProto) {
        let full_name = self.symbol(scope, message.name());
        for field in &message.field {
            self.symbol(&full_name, field.name());
        }
        for oneof in &message.oneof_decl {
            self.symbol(&full_name, oneof.name());
        }
        for nested in &message.nested_type {
            self.message(&full_name, nested);
        }
        for enumeration in &message.enum_type {
            self.enumeration(&full_name, enumeration);
        }
        for extension in &message.extension {
            self.extension(&full_name, extension);
        }
    }

    fn enumeration(&mut self, scope: &str, enumeration: &EnumDescriptorProto) {
        self.symbol(scope, enumeration.name());
        for value in &enumeration.value {
            // As in C++, a value stands beside its enumeration, not in it.
            self.symbol(scope, value.name());
        }
    }

    fn extension(&mut self, scope: &str, extension: &FieldDescriptorProto) {
        self.symbol(scope, extension.name());
        let extended = extension.extendee();
        let extended = extended.strip_prefix('.').unwrap_or(extended).to_owned();
        let extensions = self.index.extensions.entry(extended).or_default();
        extensions.insert(extension.number(), self.file.to_owned());
    }
}

/// The two versions differ in their package only, but their types are two.
macro_rules! version {
    ($routes:ident, $module:ident, $name:literal) => {
        fn $routes(index: &Arc<Index>, health: &Health) -> Routes {
            use crate::$module::server_reflection_request::MessageRequest as Asked;
            use crate::$module::server_reflection_response::MessageResponse as Answered;
            use crate::$module::{
                ErrorResponse, ExtensionNumberResponse, FileDescriptorResponse,
                ListServiceResponse, ServerReflectionRequest, ServerReflectionResponse,
                ServiceResponse,
            };

            fn answer(index: &Index, request: ServerReflectionRequest) -> ServerReflectionResponse {
                let question = match request.message_request.clone() {
                    Some(Asked::FileByFilename(name)) => Question::File(name),
                    Some(Asked::FileContainingSymbol(symbol)) => Question::Symbol(symbol),
                    Some(Asked::FileContainingExtension(extension)) => {
                        Question::Extension(extension.containing_type, extension.extension_number)
                    }
                    Some(Asked::AllExtensionNumbersOfType(name)) => Question::Extensions(name),
                    Some(Asked::ListServices(_)) => Question::Services,
                    None => Question::None,
                };
                let answered = match index.answer(question) {
                    Answer::Files(files) => {
                        Answered::FileDescriptorResponse(FileDescriptorResponse {
                            file_descriptor_proto: files.iter().map(|file| file.to_vec()).collect(),
                        })
                    }
                    Answer::Extensions(base_type_name, extension_number) => {
                        Answered::AllExtensionNumbersResponse(ExtensionNumberResponse {
                            base_type_name,
                            extension_number,
                        })
                    }
                    Answer::Services(names) => {
                        Answered::ListServicesResponse(ListServiceResponse {
                            service: names
                                .into_iter()
                                .map(|name| ServiceResponse { name })
                                .collect(),
                        })
                    }
                    Answer::Failed(error_code, error_message) => {
                        Answered::ErrorResponse(ErrorResponse {
                            error_code,
                            error_message,
                        })
                    }
                };
                ServerReflectionResponse {
                    valid_host: request.host.clone(),
                    original_request: Some(request),
                    message_response: Some(answered),
                }
            }

            let (index, health) = (Arc::clone(index), health.clone());
            Routes::dynamic($name).bidi_streaming(
                "ServerReflectionInfo",
                shape!(ServerReflectionRequest),
                shape!(ServerReflectionResponse),
                move |_: Context, requests: Streaming<ServerReflectionRequest>| {
                    let (index, health) = (Arc::clone(&index), health.clone());
                    let requests = until_ending(requests, health);
                    let answers = futures_util::StreamExt::map(requests, move |request| {
                        request.map(|request| answer(&index, request))
                    });
                    std::future::ready(Ok(Streaming::new(answers)))
                },
            )
        }
    };
}

version!(v1, reflection_v1, "grpc.reflection.v1.ServerReflection");
version!(
    v1alpha,
    reflection_v1alpha,
    "grpc.reflection.v1alpha.ServerReflection"
);

/// Ends a stream when the server does not wait for it any longer.
fn until_ending<T: Send + 'static>(stream: Streaming<T>, health: Health) -> Streaming<T> {
    Streaming::new(unfold(Some((stream, health)), |at| async move {
        let (mut stream, health) = at?;
        let item = {
            let mut next = pin!(stream.next());
            let mut ending = pin!(health.ending());
            std::future::poll_fn(|cx| {
                if let Poll::Ready(item) = next.as_mut().poll(cx) {
                    return Poll::Ready(item);
                }
                ending.as_mut().poll(cx).map(|()| Some(Err(stopping())))
            })
            .await?
        };
        let next = item.is_ok().then_some((stream, health));
        Some((item, next))
    }))
}

/// The names under which reflection is found.
pub(crate) const NAMES: [&str; 2] = [
    "grpc.reflection.v1.ServerReflection",
    "grpc.reflection.v1alpha.ServerReflection",
];

/// The reflection services, for whom the option says.
pub(crate) fn routes(index: &Arc<Index>, health: &Health, reflection: Reflection) -> Vec<Routes> {
    let both = [v1(index, health), v1alpha(index, health)];
    match reflection {
        Reflection::Off => Vec::new(),
        Reflection::On => both.into(),
        Reflection::LocalOnly => both.map(Routes::local_only).into(),
    }
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;
    use micro_core::{ErrorKind, Metadata, Result};
    use micro_transport_core::{Body, Handler as _, Peer, Request};
    use prost::Message as _;

    use super::*;
    use crate::reflection_v1::server_reflection_request::MessageRequest;
    use crate::reflection_v1::server_reflection_response::MessageResponse;
    use crate::reflection_v1::{
        ExtensionRequest, ServerReflectionRequest, ServerReflectionResponse,
    };
    use crate::{HandlerOptions, ServerHandler};

    /// A server that answers nothing but its own services.
    fn handler(reflection: Reflection) -> (Arc<ServerHandler>, Health) {
        let health = Health::new([]);
        let own = crate::server::own("alone", Vec::new(), &[], &health, reflection).unwrap();
        let opts = HandlerOptions::default();
        let handler = ServerHandler::with_own("alone", Vec::new(), own, opts).unwrap();
        (handler, health)
    }

    async fn call(
        handler: &Arc<ServerHandler>,
        peer: &str,
        requests: Body,
    ) -> Result<micro_transport_core::Messages> {
        let request = Request::new(
            "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
            "application/protobuf",
            requests,
        )
        .with_peer(Arc::new(Peer::from_socket(peer.parse().unwrap())));
        let (cx, _canceller) = Context::serve(None, Metadata::new());
        match Arc::clone(handler).call(cx, request).await?.body {
            Body::Stream(messages) => Ok(messages),
            body => panic!("a stream expected, not {body:?}"),
        }
    }

    async fn ask(asked: MessageRequest) -> MessageResponse {
        let (handler, _health) = handler(Reflection::LocalOnly);
        let request = ServerReflectionRequest {
            host: "h".to_owned(),
            message_request: Some(asked),
        };
        let mut bytes = BytesMut::new();
        request.encode(&mut bytes).unwrap();
        let body = Body::Message(bytes.freeze());
        let mut answers = call(&handler, "127.0.0.1:1", body).await.unwrap();
        let answer = futures_util::StreamExt::next(&mut answers).await.unwrap();
        let answer = ServerReflectionResponse::decode(answer.unwrap()).unwrap();
        assert_eq!(answer.original_request, Some(request));
        answer.message_response.unwrap()
    }

    fn files(answer: MessageResponse) -> Vec<String> {
        let MessageResponse::FileDescriptorResponse(answer) = answer else {
            panic!("files expected, not {answer:?}");
        };
        let files = answer.file_descriptor_proto.iter();
        files
            .map(|file| {
                let file = prost_types::FileDescriptorProto::decode(&**file).unwrap();
                file.name().to_owned()
            })
            .collect()
    }

    #[tokio::test]
    async fn everything_can_be_found() {
        let MessageResponse::ListServicesResponse(services) =
            ask(MessageRequest::ListServices(String::new())).await
        else {
            panic!("services expected");
        };
        let names: Vec<_> = services.service.iter().map(|s| &*s.name).collect();
        assert_eq!(
            names,
            [
                "grpc.health.v1.Health",
                "grpc.reflection.v1.ServerReflection",
                "grpc.reflection.v1alpha.ServerReflection",
            ]
        );
        for symbol in [
            "grpc.health.v1.Health",
            "grpc.health.v1.Health.Check",
            "grpc.health.v1.HealthCheckRequest",
            "grpc.health.v1.HealthCheckRequest.service",
            "grpc.health.v1.HealthCheckResponse.ServingStatus",
            "grpc.health.v1.HealthCheckResponse.SERVING",
            ".grpc.health.v1.Health",
        ] {
            let asked = MessageRequest::FileContainingSymbol(symbol.to_owned());
            assert_eq!(files(ask(asked).await), ["grpc/health/v1/health.proto"]);
        }
        let name = "grpc/health/v1/health.proto".to_owned();
        assert_eq!(
            files(ask(MessageRequest::FileByFilename(name.clone())).await),
            [name]
        );
    }

    #[tokio::test]
    async fn what_is_not_there_is_said_in_the_stream() {
        for asked in [
            MessageRequest::FileByFilename("nowhere.proto".to_owned()),
            MessageRequest::FileContainingSymbol("no.Where".to_owned()),
            MessageRequest::AllExtensionNumbersOfType("no.Where".to_owned()),
            MessageRequest::FileContainingExtension(ExtensionRequest {
                containing_type: "grpc.health.v1.HealthCheckRequest".to_owned(),
                extension_number: 7,
            }),
        ] {
            let MessageResponse::ErrorResponse(err) = ask(asked).await else {
                panic!("an error expected");
            };
            assert_eq!(err.error_code, NOT_FOUND);
        }
        let known = "grpc.health.v1.HealthCheckRequest".to_owned();
        let MessageResponse::AllExtensionNumbersResponse(none) =
            ask(MessageRequest::AllExtensionNumbersOfType(known)).await
        else {
            panic!("numbers expected");
        };
        assert!(none.extension_number.is_empty());
    }

    #[tokio::test]
    async fn only_those_on_this_machine_may_ask_unless_opened() {
        let empty = || Body::Stream(Box::pin(futures_util::stream::empty()));
        for (reflection, peer, kind) in [
            (Reflection::LocalOnly, "127.0.0.1:1", None),
            (
                Reflection::LocalOnly,
                "10.0.0.1:1",
                Some(ErrorKind::PermissionDenied),
            ),
            (Reflection::On, "10.0.0.1:1", None),
            (
                Reflection::Off,
                "127.0.0.1:1",
                Some(ErrorKind::Unimplemented),
            ),
        ] {
            let (handler, _health) = handler(reflection);
            let err = call(&handler, peer, empty()).await.err();
            assert_eq!(err.map(|err| err.kind()), kind, "{reflection:?} {peer}");
        }
    }

    #[tokio::test]
    async fn a_stopping_server_waits_for_nobody_who_only_looks() {
        let (handler, health) = handler(Reflection::On);
        let never = Body::Stream(Box::pin(futures_util::stream::pending()));
        let mut answers = call(&handler, "127.0.0.1:1", never).await.unwrap();
        let next = tokio::spawn(async move {
            let next = futures_util::StreamExt::next(&mut answers).await;
            next.unwrap().unwrap_err().kind()
        });
        tokio::task::yield_now().await;
        health.advance(crate::health::Stage::Ending);
        assert_eq!(next.await.unwrap(), ErrorKind::Unavailable);
    }
}
