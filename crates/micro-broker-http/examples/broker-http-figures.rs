//! Messages per second through the HTTP broker, one POST each, beside bare hyper posting the same body to
//! a server that reads it and answers 200, in the same run.
//!
//! `cargo run --release -p micro-broker-http --example broker-http-figures`

#![expect(clippy::print_stdout, reason = "its output is what it is for")]

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use micro_broker_core::{
    Broker as _, Context, Env, Group, Message, PublishOptions, Reach, SubscribeOptions, Topic,
    handler,
};
use micro_broker_http::{HttpBroker, HttpBrokerConfig};
use micro_core::{Clock as _, SystemClock};
use micro_registry_core::Registry;
use micro_registry_memory::MemoryDriver;
use tokio::net::{TcpListener, TcpStream};

const MESSAGES: usize = 20_000;
const ROUNDS: usize = 5;

#[tokio::main]
async fn main() {
    for size in [64, 1024] {
        let body = Bytes::from(vec![7; size]);
        for lanes in [1, 16] {
            let (mut bare, mut ours) = (Vec::new(), Vec::new());
            for _ in 0..ROUNDS {
                bare.push(through_hyper(lanes, body.clone()).await);
                ours.push(through_broker(lanes, body.clone()).await);
            }
            let (bare, ours) = (median(&mut bare), median(&mut ours));
            println!(
                "{size:4} bytes, {lanes:2} at once: hyper {:6.0}/s p99 {:4} us, broker {:6.0}/s p99 {:4} us, {:.2}x",
                bare.0,
                bare.1.as_micros(),
                ours.0,
                ours.1.as_micros(),
                ours.0 / bare.0
            );
        }
    }
}

type Figures = (f64, Duration);

fn median(all: &mut [Figures]) -> Figures {
    all.sort_by(|a, b| a.0.total_cmp(&b.0));
    all[all.len() / 2]
}

/// Runs the lanes side by side; messages per second, and the 99th percentile of one's time.
async fn measure<L>(lanes: Vec<L>) -> Figures
where
    L: AsyncLane + Send + 'static,
{
    let begin = SystemClock.now();
    let count = lanes.len();
    let running: Vec<_> = lanes
        .into_iter()
        .map(|mut lane| {
            tokio::spawn(async move {
                let mut times = Vec::new();
                for _ in 0..MESSAGES / count {
                    let begin = SystemClock.now();
                    lane.send().await;
                    times.push(SystemClock.now() - begin);
                }
                times
            })
        })
        .collect();
    let mut times = Vec::new();
    for lane in running {
        times.extend(lane.await.expect("it ends"));
    }
    let taken = SystemClock.now() - begin;
    times.sort();
    (
        times.len() as f64 / taken.as_secs_f64(),
        times[times.len() * 99 / 100],
    )
}

trait AsyncLane {
    fn send(&mut self) -> impl Future<Output = ()> + Send;
}

struct Bare {
    send: hyper::client::conn::http1::SendRequest<Full<Bytes>>,
    body: Bytes,
}

impl AsyncLane for Bare {
    async fn send(&mut self) {
        let request = Request::post("/?id=1")
            .header("host", "x")
            .body(Full::new(self.body.clone()))
            .expect("it is a request");
        let response = self.send.send_request(request).await.expect("it answers");
        assert!(response.status().is_success());
        response.into_body().collect().await.expect("it ends");
        self.send.ready().await.expect("it is open");
    }
}

async fn through_hyper(lanes: usize, body: Bytes) -> Figures {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let server = tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            stream.set_nodelay(true).expect("it is a socket");
            let serve = service_fn(|request: Request<Incoming>| async move {
                request.into_body().collect().await.expect("it ends");
                Ok::<_, Infallible>(Response::new(Full::<Bytes>::default()))
            });
            let connection = hyper::server::conn::http1::Builder::new();
            tokio::spawn(connection.serve_connection(TokioIo::new(stream), serve));
        }
    });
    let mut all = Vec::new();
    for _ in 0..lanes {
        let stream = TcpStream::connect(address).await.expect("it connects");
        stream.set_nodelay(true).expect("it is a socket");
        let (send, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .expect("it speaks");
        tokio::spawn(connection);
        let body = body.clone();
        all.push(Bare { send, body });
    }
    let figures = measure(all).await;
    server.abort();
    figures
}

struct Ours {
    broker: HttpBroker,
    topic: Topic,
    body: Bytes,
}

impl AsyncLane for Ours {
    async fn send(&mut self) {
        let message = Message::new(self.topic.clone(), self.body.clone());
        let cx = Context::new();
        let receipt = self
            .broker
            .publish(&cx, message, PublishOptions::default())
            .await;
        let reach = receipt.expect("it is published").reach;
        assert!(
            matches!(
                reach,
                Reach::Delivered {
                    acknowledged: 1,
                    ..
                }
            ),
            "{reach:?}"
        );
    }
}

async fn through_broker(lanes: usize, body: Bytes) -> Figures {
    let registry: Arc<dyn Registry> = micro_registry_core::Drivers::new()
        .with(MemoryDriver::default())
        .open("memory", &Env::new())
        .await
        .expect("it opens");
    let env = Env::new().with(registry);
    let open = || HttpBroker::open(HttpBrokerConfig::default(), &env).expect("it opens");
    let (publisher, subscriber) = (open(), open());
    let topic = Topic::new("orders").expect("the name is good");
    let opts = SubscribeOptions::default().with_group(Group::new("g").expect("the name is good"));
    let handle = handler(|_, _| std::future::ready(Ok(())));
    let subscription = subscriber
        .subscribe(&topic, opts, handle)
        .await
        .expect("it subscribes");
    let lane = || Ours {
        broker: publisher.clone(),
        topic: topic.clone(),
        body: body.clone(),
    };
    let figures = measure((0..lanes).map(|_| lane()).collect()).await;
    drop(subscription);
    figures
}
