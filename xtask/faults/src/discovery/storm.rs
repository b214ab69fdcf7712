//! A backend that fails every call: what retries make of it.

use std::sync::Mutex;
use std::time::Duration;

use micro::codec::shape;
use micro::{Context, Routes};
use micro_testing::{Cluster, Host};
use tokio::time::sleep;

use crate::report::Report;
use crate::{Options, Result};

/// Calls a second at the top.
const RATE: u32 = 500;

/// One hop, then three.
pub(super) fn run(options: &Options, report: &mut Report) -> Result<()> {
    let seconds = if options.quick { 10 } else { 60 };
    let leaf = |_: &Host| echo(None);
    let one = calls(options, seconds, "leaf", |builder| {
        builder.service("leaf", 3, leaf)
    });
    // 20 % and 10 a second.
    let allowed = 0.2 * one.made + 10.0 * f64::from(seconds);
    let extra = one.leaf - one.made;
    report.figure("storm_calls", one.made, "calls");
    report.at_most("storm_extra", extra, "attempts", allowed);
    let three = calls(options, seconds, "top", |builder| {
        builder
            .service("top", 3, |host| echo(Some((host.client(), "middle"))))
            .service("middle", 3, |host| echo(Some((host.client(), "leaf"))))
            .service("leaf", 3, leaf)
    });
    report.at_most(
        "storm_three_hops_leaf",
        three.leaf / three.made,
        "attempts/call",
        1.5,
    );
    Ok(())
}

/// A service that passes a call on, or answers it.
fn echo(next: Option<(micro::__v1::Client, &'static str)>) -> Routes {
    Routes::dynamic("Echo").unary(
        "Say",
        shape!(String),
        shape!(String),
        move |cx: Context, word: String| {
            let next = next.clone();
            async move {
                let Some((client, service)) = next else {
                    return Ok(word);
                };
                let call = client.call(service, "Echo.Say", &word);
                call.idempotent(true).send(&cx).await
            }
        },
    )
}

struct Storm {
    made: f64,
    leaf: f64,
}

fn calls(
    options: &Options,
    seconds: u32,
    first: &'static str,
    build: impl FnOnce(micro_testing::Builder) -> micro_testing::Builder,
) -> Storm {
    let counted = Mutex::new((0_u32, 0_u64));
    let builder = build(Cluster::builder().seed(options.seed));
    builder.run(async |cluster| -> micro::Result<()> {
        for node in cluster.nodes("leaf") {
            node.fail(1.0);
        }
        let client = cluster.client();
        let mut made = 0;
        let mut flying = Vec::new();
        let pause = Duration::from_secs(1) / RATE;
        for _ in 0..RATE * seconds {
            made += 1;
            let (client, cx) = (client.clone(), cluster.context());
            flying.push(tokio::spawn(async move {
                let call = client.call(first, "Echo.Say", &"hm");
                let answer: micro::Result<String> = call.idempotent(true).send(&cx).await;
                answer.is_ok()
            }));
            sleep(pause).await;
        }
        for call in flying {
            // The leaf fails every call: one that succeeds would mean that nothing is measured.
            assert!(!call.await.unwrap_or(true), "a call succeeded");
        }
        let leaf = cluster.nodes("leaf").iter().map(|node| node.calls()).sum();
        *counted
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner) = (made, leaf);
        Ok(())
    });
    let (made, leaf) = *counted
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner);
    Storm {
        made: f64::from(made),
        leaf: leaf as f64,
    }
}
