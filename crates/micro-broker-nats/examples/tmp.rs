use micro_broker_core::*;
use micro_broker_nats::*;
use micro_nats::async_nats::{self, jetstream};
use std::time::Instant;
#[tokio::main(worker_threads = 2)]
async fn main() {
    let url = "nats://127.0.0.1:24222";
    let client = async_nats::connect(url).await.unwrap();
    let js = jetstream::new(client.clone());
    let n = 2500;
    for round in 0..3 {
        for mode in ["raw", "raw+id", "raw+id req", "ours"] {
            let _ = js.delete_stream("tmpraw").await;
            let _ = js.delete_stream("micro+tmp+t").await;
            js.create_stream(jetstream::stream::Config { name: "tmpraw".into(), subjects: vec!["tmpraw".into()], max_bytes: 32 << 20, num_replicas: 1, ..Default::default() }).await.unwrap();
            let config = NatsBrokerConfig::from_url(&micro_core::url::resolve(url).unwrap()).unwrap().with_max_bytes(32 << 20);
            let broker = NatsBroker::open(config, &Env::new().with_namespace("tmp")).unwrap();
            let _ = broker.publish(&Context::new(), Message::new(Topic::new("t").unwrap(), "x"), Default::default()).await.unwrap();
            let begin = Instant::now();
            let mut tasks = Vec::new();
            for caller in 0..16 {
                let (js, broker, client) = (js.clone(), broker.clone(), client.clone());
                tasks.push(async move {
                    for i in 0..n {
                        let id = format!("01a21332-2b14-7b36-852b-{caller:04}{i:08}-{round}");
                        match mode {
                            "raw" => drop(js.publish("tmpraw", vec![7u8; 64].into()).await.unwrap().await.unwrap()),
                            "raw+id" => {
                                let p = jetstream::message::PublishMessage::build().payload(vec![7u8; 64].into()).message_id(id).header("micro-time", "1764079199000");
                                drop(js.send_publish("tmpraw", p).await.unwrap().await.unwrap());
                            }
                            "raw+id req" => {
                                let mut h = async_nats::HeaderMap::new();
                                h.insert("Nats-Msg-Id", id); h.insert("micro-time", "1764079199000");
                                let r = async_nats::Request::new().payload(vec![7u8; 64].into()).headers(h).timeout(None);
                                client.send_request("tmpraw", r).await.unwrap();
                            }
                            _ => drop(broker.publish(&Context::new(), Message::new(Topic::new("t").unwrap(), vec![7u8; 64]), Default::default()).await.unwrap()),
                        }
                    }
                });
            }
            futures_util::future::join_all(tasks).await;
            println!("{round} {mode}: {:.0}/s", 16.0 * n as f64 / begin.elapsed().as_secs_f64());
        }
    }
}
