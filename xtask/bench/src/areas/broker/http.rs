//! One POST per message, beside bare hyper posting the same body to a server that reads it and answers
//! 200.
//!
//! Publisher and subscriber are a process each, on a core each. Both ways are open through the whole
//! measurement and take turns.

use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::SendRequest;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use micro_broker_core::{
    Broker as _, Context, Env, Group, Message, PublishOptions, Reach, SubscribeOptions, Topic,
    handler,
};
use micro_broker_http::{HttpBroker, HttpBrokerConfig};
use micro_registry_core::{RegisterOptions, Registry, RegistryExt as _, Service};
use micro_registry_memory::MemoryDriver;
use tokio::net::{TcpListener, TcpStream};

use super::net::Net;
use crate::cost::{Cost, Side};
use crate::figures::{Figure, number};
use crate::load::{Cell, Outcome, Turn};
use crate::options::Options;
use crate::process::{self, Child};
use crate::report::Findings;
use crate::stacks::Client;
use crate::table::Table;
use crate::{Result, wire};

/// So many messages are under way at once.
const CALLERS: [usize; 2] = [1, 16];

/// Who takes turns.
const WAYS: [&str; 2] = ["hyper", "micro"];

pub(super) fn run(options: &Options, net: Option<&Net>) -> Result<Findings> {
    let program = std::env::current_exe()?;
    let command = |host: usize| match net {
        Some(net) => net.command(host, &program),
        None => std::process::Command::new(&program),
    };
    let ip = net.map_or("127.0.0.1".to_owned(), |_| Net::address(0));
    let (mut server, target) = Child::run(command(0), &["role", "broker", "serve", &ip])?;
    let (mut client, _) = Child::run(command(1), &["role", "broker", "load", target.trim()])?;
    let (prefix, about) = match net {
        Some(_) => (
            "http_netns",
            "Messages over HTTP across two network namespaces",
        ),
        None => ("http", "Messages over HTTP on one machine"),
    };
    let mut table = Table::new(
        format!("{about}, one POST each"),
        [
            "body and callers",
            "hyper/s",
            "micro/s",
            "ratio",
            "hyper p99 us",
            "micro p99 us",
            "hyper CPU us",
            "micro CPU us",
        ],
    );
    let mut figures = Vec::new();
    for &size in &options.sizes {
        for callers in CALLERS {
            let cell = Cell { size, callers };
            let (mut rates, mut p99, mut cpu) =
                <([Vec<f64>; 2], [Vec<f64>; 2], [Vec<f64>; 2])>::default();
            for round in 0..options.pairs {
                for turn in 0..WAYS.len() {
                    // Whoever begins changes from round to round.
                    let way = (round + turn) % WAYS.len();
                    let time = Duration::from_secs_f64(options.seconds);
                    let turn = Turn {
                        cell,
                        rate: 0,
                        time,
                    };
                    let before = server.cost()?;
                    let line = format!("way={} {}", WAYS[way], turn.line());
                    let outcome = Outcome::parse(&client.ask(&line, time)?)?;
                    let spent = (server.cost()? - before).cpu_ns + outcome.cost.cpu_ns;
                    let calls = outcome.calls as f64;
                    rates[way].push(calls / (outcome.elapsed_ns as f64 / 1e9));
                    p99[way].push(outcome.p99_ns as f64 / 1e3);
                    cpu[way].push(spent as f64 / calls / 1e3);
                }
            }
            let name = format!("{prefix}_{size}b_{callers}c");
            let ratio = Figure::ratio(format!("{name}_vs_hyper"), &rates[1], &rates[0]);
            let both = |what: &str, unit, samples: [Vec<f64>; 2]| {
                let mut samples = samples.into_iter().zip(WAYS);
                let figures = samples.by_ref().map(|(samples, way)| {
                    Figure::new(format!("{name}_{way}_{what}"), unit, samples)
                });
                figures.collect::<Vec<_>>()
            };
            let told = [
                both("messages", "/s", rates),
                both("p99", "us", p99),
                both("cpu", "us", cpu),
            ];
            let cell = |what: usize, way: usize| number(told[what][way].median());
            table.row(vec![
                format!("{size} B, {callers} at once"),
                cell(0, 0),
                cell(0, 1),
                number(ratio.median()),
                cell(1, 0),
                cell(1, 1),
                cell(2, 0),
                cell(2, 1),
            ]);
            figures.push(ratio);
            figures.extend(told.into_iter().flatten());
        }
    }
    Ok(Findings {
        tables: vec![table],
        figures,
    })
}

/// A registry of this process' own.
async fn registry() -> Result<Arc<dyn Registry>> {
    let drivers = micro_registry_core::Drivers::new().with(MemoryDriver::default());
    Ok(drivers.open("memory", &Env::new()).await?)
}

/// The subscriber, and a server that is hyper alone.
pub(super) fn serve(ip: &str) -> Result<()> {
    process::live(Side::Server, 1, async {
        let bare = TcpListener::bind((ip, 0)).await?;
        let bare_at = bare.local_addr()?;
        tokio::spawn(async move {
            while let Ok((stream, _)) = bare.accept().await {
                let _ = stream.set_nodelay(true);
                let connection = hyper::server::conn::http1::Builder::new();
                tokio::spawn(connection.serve_connection(TokioIo::new(stream), service_fn(take)));
            }
        });
        let registry = registry().await?;
        let env = Env::new().with(Arc::clone(&registry));
        let config = HttpBrokerConfig::default().with_address(format!("{ip}:0"));
        let broker = HttpBroker::open(config, &env)?;
        let opts = SubscribeOptions::default().with_group(Group::new("g")?);
        let handle = handler(|_, _| std::future::ready(Ok(())));
        let _subscription = broker.subscribe(&topic()?, opts, handle).await?;
        let services = registry.get("micro.http.broker").await?;
        let service = services.first().ok_or("the subscriber is not registered")?;
        process::tell(Ok(format!(
            "bare={bare_at};{}",
            serde_json::to_string(service)?
        )))?;
        let mut commands = process::commands();
        while let Some(command) = commands.recv().await {
            process::tell(match command.as_str() {
                "cost" => Ok(process::cost_fields(Cost::so_far())),
                other => Err(format!("a server does not know {other:?}").into()),
            })?;
        }
        Ok(())
    })
}

async fn take(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let whole = request.into_body().collect().await;
    let status = if whole.is_ok() { 200 } else { 400 };
    let mut response = Response::new(Full::default());
    *response.status_mut() = hyper::StatusCode::from_u16(status).unwrap_or_default();
    Ok(response)
}

fn topic() -> Result<Topic> {
    Ok(Topic::new("orders")?)
}

/// The publisher, and a client that is hyper alone.
pub(super) fn load(target: &str) -> Result<()> {
    process::live(Side::Client, 1, async {
        let (bare, service) = target.split_once(';').ok_or("the target is two")?;
        let bare = Bare {
            address: wire::field(bare, "bare")?,
            idle: Arc::default(),
        };
        let service: Service = serde_json::from_str(service)?;
        let registry = registry().await?;
        registry
            .register(&service, RegisterOptions::default())
            .await?;
        let env = Env::new().with(registry);
        let ours = Ours {
            broker: HttpBroker::open(HttpBrokerConfig::default(), &env)?,
            topic: topic()?,
        };
        process::tell(Ok(String::new()))?;
        let mut commands = process::commands();
        while let Some(command) = commands.recv().await {
            let turn = Turn::parse(&command)?;
            let outcome = match wire::field::<String>(&command, "way")?.as_str() {
                "hyper" => turn.run(&bare).await,
                _ => turn.run(&ours).await,
            };
            process::tell(outcome.map(|outcome| outcome.fields()))?;
        }
        Ok(())
    })
}

/// Connections of hyper, one for each message under way.
#[derive(Clone)]
struct Bare {
    address: String,
    idle: Arc<Mutex<Vec<SendRequest<Full<Bytes>>>>>,
}

impl Bare {
    fn idle(&self) -> std::sync::MutexGuard<'_, Vec<SendRequest<Full<Bytes>>>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn connect(&self) -> Result<SendRequest<Full<Bytes>>> {
        let stream = TcpStream::connect(&self.address).await?;
        stream.set_nodelay(true)?;
        let (send, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        Ok(send)
    }
}

impl Client for Bare {
    async fn call(&mut self, payload: Bytes) -> Result<Bytes> {
        let idle = self.idle().pop();
        let mut send = match idle {
            Some(send) => send,
            None => self.connect().await?,
        };
        send.ready().await?;
        let request = Request::post("/")
            .header("host", &self.address)
            .body(Full::new(payload.clone()))?;
        let response = send.send_request(request).await?;
        if !response.status().is_success() {
            return Err("the server did not take it".into());
        }
        response.into_body().collect().await?;
        self.idle().push(send);
        Ok(payload)
    }
}

#[derive(Clone)]
struct Ours {
    broker: HttpBroker,
    topic: Topic,
}

impl Client for Ours {
    async fn call(&mut self, payload: Bytes) -> Result<Bytes> {
        let message = Message::new(self.topic.clone(), payload.clone());
        let opts = PublishOptions::default();
        let receipt = self.broker.publish(&Context::new(), message, opts).await?;
        match receipt.reach {
            Reach::Delivered {
                acknowledged: 1, ..
            } => Ok(payload),
            reach => Err(format!("it did not arrive: {reach:?}").into()),
        }
    }
}
