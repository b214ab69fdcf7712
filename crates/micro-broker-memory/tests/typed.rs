//! Values instead of bytes.

use std::sync::Arc;

use micro_broker_core::{
    Broker, Context, ErrorKind, Message, Publisher, SubscribeOptions, Topic, handler, typed,
};
use micro_broker_memory::MemoryBroker;
use micro_codec_core::{Codecs, shape};
use micro_codec_json::Json;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Order {
    tea: u32,
}

#[tokio::test]
async fn values_reach_their_handlers_and_what_is_none_is_a_dead_letter() {
    let broker: Arc<dyn Broker> = Arc::new(MemoryBroker::new());
    let topic = Topic::new("orders").unwrap();
    let (tell, mut orders) = mpsc::unbounded_channel();
    let handle = typed(
        Codecs::new().with(Json),
        shape!(Order),
        move |_, order: Order, delivery| {
            tell.send((order, delivery.message().key.clone())).unwrap();
            std::future::ready(Ok(()))
        },
    );
    let opts = SubscribeOptions::default;
    let _orders = broker.subscribe(&topic, opts(), handle).await.unwrap();
    let (tell, mut dead) = mpsc::unbounded_channel();
    let handle = handler(move |_, delivery| {
        tell.send(delivery.message().clone()).unwrap();
        std::future::ready(Ok(()))
    });
    let _dead = broker
        .subscribe(&Topic::new("orders.dead").unwrap(), opts(), handle)
        .await
        .unwrap();

    let json = Arc::new(Json);
    let publisher = Publisher::new(Arc::clone(&broker), topic.clone(), json, shape!(Order));
    let cx = Context::new();
    publisher.publish(&cx, &Order { tea: 2 }).await.unwrap();
    assert_eq!(orders.recv().await.unwrap(), (Order { tea: 2 }, None));
    let message = publisher
        .message(&Order { tea: 3 })
        .unwrap()
        .with_key("ada");
    publisher
        .send(&cx, message, Default::default())
        .await
        .unwrap();
    assert_eq!(
        orders.recv().await.unwrap(),
        (Order { tea: 3 }, Some("ada".into()))
    );

    for (content_type, kind) in [
        ("application/json", ErrorKind::InvalidArgument),
        ("image/png", ErrorKind::Unimplemented),
    ] {
        let message = Message::new(topic.clone(), "no order").with_content_type(content_type);
        broker
            .publish(&cx, message, Default::default())
            .await
            .unwrap();
        let why = dead.recv().await.unwrap().dead_letter.unwrap();
        assert!(
            why.reason.starts_with(kind.name()) && why.deliveries == 1,
            "{why:?}"
        );
    }
}
