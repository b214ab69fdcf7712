//! The service. Which store it has is not its business: `MICRO_STORE` says so.

use std::time::Duration;

use futures_util::TryStreamExt as _;
use micro::store::{Condition, ListOptions, Record, StoreErrorExt as _, Table, WriteOptions};
use micro::{Result, Service};
use serde::{Deserialize, Serialize};

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Order {
    item: String,
    pieces: u32,
}

/// The service's own table.
async fn table() -> Result<Table> {
    Service::new("shop").store().await
}

/// What a store can do.
pub(crate) async fn tour() -> Result<()> {
    let shop = table().await?;
    let tea = Order {
        item: "tea".to_owned(),
        pieces: 2,
    };
    let written = shop.put("tour/1", &tea).await?;
    println!("  kept with durability {:?}", written.durability);
    assert_eq!(shop.get("tour/1").await?, Some(tea));

    // Only if nobody was faster.
    let only_new = WriteOptions::default().with_condition(Condition::Absent);
    let coffee = Order {
        item: "coffee".to_owned(),
        pieces: 1,
    };
    let refused = shop.put_with("tour/1", &coffee, only_new).await;
    assert!(refused.is_err_and(|err| err.is_conflict()));

    // Bytes, with facts about them, for a while.
    let receipt = Record::new("tour/2", "%PDF-2.0").with_metadata("type", "application/pdf");
    let brief = WriteOptions::default().with_ttl(Duration::from_millis(150));
    shop.write(receipt, brief).await?;
    let receipt = shop.read("tour/2").await?;
    assert_eq!(receipt.metadata["type"], "application/pdf");
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(shop.find("tour/2").await?, None);

    assert!(shop.delete("tour/1").await?);
    Ok(())
}

/// Takes orders until it is stopped, and says of each when it is kept.
pub(crate) async fn take_orders() -> Result<()> {
    let shop = table().await?;
    for pieces in 0.. {
        let order = Order {
            item: "tea".to_owned(),
            pieces,
        };
        shop.put(&format!("order/{pieces:06}"), &order).await?;
        println!("{pieces}");
    }
    Ok(())
}

/// Says which orders there are.
pub(crate) async fn count_orders() -> Result<()> {
    let shop = table().await?;
    let mut orders = shop.scan(ListOptions::default().with_prefix("order/"));
    while let Some(record) = orders.try_next().await? {
        println!("{}", record.json::<Order>()?.pieces);
    }
    Ok(())
}

/// Leaves nothing behind.
pub(crate) async fn clear() -> Result<()> {
    let shop = table().await?;
    let mut all = shop.scan(ListOptions::default().with_keys_only(true));
    while let Some(record) = all.try_next().await? {
        shop.delete(&record.key).await?;
    }
    Ok(())
}
