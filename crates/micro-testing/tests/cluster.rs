//! What a test can do to a cluster, and that it can be repeated.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use micro_client::{CallOptions, Client};
use micro_codec_core::shape;
use micro_core::{Clock as _, Error, ErrorKind, Result};
use micro_registry_core::RegistryExt as _;
use micro_server::Routes;
use micro_testing::{Builder, Cluster, Host, NodeHandle, Trouble};
use tokio::time::{Instant, sleep};

/// Says which node answered.
fn greeter(host: &Host) -> Routes {
    let name = host.name().to_owned();
    Routes::dynamic("Greeter").unary(
        "Hello",
        shape!(String),
        shape!(String),
        move |_cx, _who: String| {
            let name = name.clone();
            async move { Ok(name) }
        },
    )
}

fn three() -> Builder {
    Cluster::builder().service("greeter", 3, greeter)
}

fn one() -> Builder {
    Cluster::builder().service("greeter", 1, greeter)
}

async fn hello(cluster: &Cluster, client: &Client) -> Result<String> {
    let call = client.call("greeter", "Greeter.Hello", &"Ada");
    call.send(&cluster.context()).await
}

/// One call to one node, of one second at most and without repetition.
async fn ask(cluster: &Cluster, client: &Client, node: &NodeHandle) -> Result<String> {
    let (_, address) = node.registered_as().expect("it runs");
    let call = client.call("greeter", "Greeter.Hello", &"Ada");
    let call = call.address(address).retries(0);
    let call = call.timeout(Duration::from_secs(1));
    call.send(&cluster.context()).await
}

async fn listed(cluster: &Cluster) -> Vec<String> {
    let services = cluster.registry().directory().get("greeter").await;
    let services = services.unwrap_or_default();
    let nodes = services.iter().flat_map(|service| &service.nodes);
    nodes.map(|node| node.id.clone()).collect()
}

#[test]
fn calls_go_to_all_nodes() {
    three().run(async |cluster| -> Result<()> {
        let client = cluster.client();
        for _ in 0..300 {
            hello(cluster, &client).await?;
        }
        for node in cluster.nodes("greeter") {
            assert!((50..=200).contains(&node.calls()), "{}", node.calls());
        }
        Ok(())
    });
}

/// Trouble and calls, and what came of them.
fn history(seed: u64) -> String {
    let text = std::sync::Mutex::new(String::new());
    three()
        .service("echo", 2, |host| {
            // A service that calls another one.
            let client = host.client();
            Routes::dynamic("Echo").unary(
                "Say",
                shape!(String),
                shape!(String),
                move |cx: micro_core::Context, word: String| {
                    let client = client.clone();
                    async move {
                        let call = client.call("greeter", "Greeter.Hello", &word);
                        let name: String = call.send(&cx).await?;
                        Ok(format!("{word} by {name}"))
                    }
                },
            )
        })
        .seed(seed)
        .run(async |cluster| -> Result<()> {
            let client = cluster.client();
            // Many who wait for the same thing are woken in the same order each time.
            let first = (0..20).map(|_| hello(cluster, &client));
            futures_util::future::join_all(first).await;
            let calls = async {
                for _ in 0..400 {
                    let call = client.call("echo", "Echo.Say", &"hm");
                    let call = call.idempotent(true).timeout(Duration::from_millis(500));
                    let _: Result<String> = call.send(&cluster.context()).await;
                    sleep(Duration::from_millis(100)).await;
                }
            };
            let trouble = Trouble::default().with_lasting(Duration::from_secs(30));
            let (trouble, ()) = tokio::join!(cluster.trouble(trouble), calls);
            trouble?;
            *text.lock().unwrap() = cluster.history().to_string();
            Ok(())
        });
    text.into_inner().unwrap()
}

#[test]
fn the_same_seed_gives_the_same_history_byte_for_byte() {
    for seed in 1..=4 {
        let (first, again) = (history(seed), history(seed));
        let differ = first
            .lines()
            .zip(again.lines())
            .find(|(one, other)| one != other);
        assert!(first == again, "seed {seed}: {differ:?}");
        assert!(first.lines().count() > 300);
        assert!(first.contains("! "), "there was trouble");
    }
    assert_ne!(history(1), history(2));
}

#[test]
fn a_failed_test_names_its_seed() {
    let failed = catch_unwind(AssertUnwindSafe(|| {
        three()
            .seed(77)
            .run(async |_| Err(Error::internal("oh no")));
    }));
    let text = *failed.unwrap_err().downcast::<String>().unwrap();
    assert!(
        text.contains("oh no") && text.contains("MICRO_TEST_SEED=77"),
        "{text}"
    );
    let stuck = catch_unwind(AssertUnwindSafe(|| {
        let builder = three().time_limit(Duration::from_secs(60));
        builder.run(async |_| -> Result<()> { std::future::pending().await });
    }));
    let text = *stuck.unwrap_err().downcast::<String>().unwrap();
    assert!(text.contains("not over after 60s"), "{text}");
}

#[test]
fn several_seeds_are_several_runs() {
    let seen = std::sync::Mutex::new(Vec::new());
    one().seed(5).seeds(3).run(async |cluster| -> Result<()> {
        seen.lock().unwrap().push(cluster.seed());
        Ok(())
    });
    assert_eq!(seen.into_inner().unwrap(), [5, 6, 7]);
}

#[tokio::test(start_paused = true)]
async fn it_also_starts_in_a_runtime_that_is_there() {
    let cluster = one().start().await.unwrap();
    let client = cluster.client();
    assert_eq!(hello(&cluster, &client).await.unwrap(), "greeter-0");
}

#[test]
fn a_slow_node_answers_late() {
    one().run(async |cluster| -> Result<()> {
        let (client, node) = (cluster.client(), cluster.node("greeter", 0));
        hello(cluster, &client).await?;
        node.slow(Duration::from_millis(400));
        let began = Instant::now();
        ask(cluster, &client, &node).await?;
        // Connecting takes as long, and the network a millisecond.
        assert_eq!(began.elapsed(), Duration::from_millis(802));
        node.slow(Duration::from_secs(2));
        let err = ask(cluster, &client, &node).await.unwrap_err();
        assert_eq!(err.kind(), ErrorKind::DeadlineExceeded);
        node.heal();
        let began = Instant::now();
        ask(cluster, &client, &node).await?;
        assert_eq!(began.elapsed(), Duration::from_millis(1));
        Ok(())
    });
}

#[test]
fn a_failing_node_fails_as_often_as_it_was_told() {
    one().run(async |cluster| -> Result<()> {
        let (client, node) = (cluster.client(), cluster.node("greeter", 0));
        node.fail_with(ErrorKind::Internal, 0.3);
        let mut failed = 0;
        for _ in 0..1000 {
            match ask(cluster, &client, &node).await {
                Ok(_) => {}
                Err(err) => {
                    assert_eq!(err.kind(), ErrorKind::Internal);
                    failed += 1;
                }
            }
        }
        assert!((250..350).contains(&failed), "{failed}");
        assert_eq!(node.calls(), 1000);
        Ok(())
    });
}

#[test]
fn a_black_hole_swallows_calls_and_stays_registered() {
    one().run(async |cluster| -> Result<()> {
        let (client, node) = (cluster.client(), cluster.node("greeter", 0));
        ask(cluster, &client, &node).await?;
        node.black_hole();
        let began = Instant::now();
        let err = ask(cluster, &client, &node).await.unwrap_err();
        assert_eq!(err.kind(), ErrorKind::DeadlineExceeded);
        assert_eq!(began.elapsed(), Duration::from_secs(1));
        sleep(Duration::from_secs(60)).await;
        assert_eq!(listed(cluster).await, ["greeter-0"]);
        node.heal();
        ask(cluster, &client, &node).await?;
        Ok(())
    });
}

#[test]
fn a_node_that_refuses_is_seen_at_once() {
    one().run(async |cluster| -> Result<()> {
        let (client, node) = (cluster.client(), cluster.node("greeter", 0));
        ask(cluster, &client, &node).await?;
        node.refuse();
        let began = Instant::now();
        let err = ask(cluster, &client, &node).await.unwrap_err();
        assert_eq!(err.kind(), ErrorKind::Unavailable, "{err}");
        assert!(began.elapsed() < Duration::from_millis(500));
        node.heal();
        sleep(Duration::from_secs(5)).await;
        ask(cluster, &client, &node).await?;
        Ok(())
    });
}

#[test]
fn a_flapping_node_is_there_half_of_the_time() {
    one().run(async |cluster| -> Result<()> {
        let node = cluster.node("greeter", 0);
        let (_, address) = node.registered_as().unwrap();
        node.flap(Duration::from_secs(1));
        let mut there = 0;
        for _ in 0..100 {
            sleep(Duration::from_millis(137)).await;
            // A client of its own each time: what it knows of the node does not count.
            let client = cluster.client_on("prober");
            let call = client.call("greeter", "Greeter.Hello", &"Ada");
            let call = call.address(address.as_str()).retries(0);
            let answer: Result<String> = call.send(&cluster.context()).await;
            there += usize::from(answer.is_ok());
        }
        assert!((40..=60).contains(&there), "{there}");
        node.heal();
        sleep(Duration::from_secs(1)).await;
        for _ in 0..20 {
            ask(cluster, &cluster.client_on("prober"), &node).await?;
            sleep(Duration::from_millis(137)).await;
        }
        Ok(())
    });
}

#[test]
fn broken_connections_are_made_again() {
    one().run(async |cluster| -> Result<()> {
        let client = cluster.client();
        hello(cluster, &client).await?;
        let before = cluster.history().count("> greeter-0: connected");
        cluster.node("greeter", 0).break_connections();
        hello(cluster, &client).await?;
        assert_eq!(
            cluster.history().count("> greeter-0: connected"),
            before + 1
        );
        Ok(())
    });
}

#[test]
fn a_killed_node_is_listed_until_its_ttl_and_calls_go_on() {
    three().run(async |cluster| -> Result<()> {
        let (client, node) = (cluster.client(), cluster.node("greeter", 1));
        hello(cluster, &client).await?;
        node.crash();
        assert!(!node.is_running());
        assert_eq!(listed(cluster).await.len(), 3);
        for _ in 0..100 {
            assert_ne!(hello(cluster, &client).await?, "greeter-1");
        }
        sleep(Duration::from_secs(31)).await;
        assert_eq!(listed(cluster).await, ["greeter-0", "greeter-2"]);
        node.restart().await?;
        assert_eq!(
            listed(cluster).await,
            ["greeter-0", "greeter-1.1", "greeter-2"]
        );
        let before = node.calls();
        for _ in 0..300 {
            hello(cluster, &client).await?;
            sleep(Duration::from_millis(100)).await;
        }
        assert!(node.calls() > before + 50, "it takes calls again");
        Ok(())
    });
}

#[test]
fn a_stop_in_good_order_costs_no_call() {
    three().run(async |cluster| -> Result<()> {
        let (client, node) = (cluster.client(), cluster.node("greeter", 1));
        let calls = async {
            for _ in 0..200 {
                hello(cluster, &client).await?;
                sleep(Duration::from_millis(10)).await;
            }
            Ok::<(), Error>(())
        };
        let (report, calls) = tokio::join!(node.stop(), calls);
        calls?;
        assert!(report?.deregistered);
        assert_eq!(listed(cluster).await, ["greeter-0", "greeter-2"]);
        Ok(())
    });
}

#[test]
fn an_isolated_node_leaves_by_its_ttl_and_comes_back() {
    three().run(async |cluster| -> Result<()> {
        let node = cluster.node("greeter", 2);
        node.isolate();
        sleep(Duration::from_secs(31)).await;
        assert_eq!(listed(cluster).await, ["greeter-0", "greeter-1"]);
        node.heal();
        // An attempt may be under way, and its time not yet over.
        sleep(Duration::from_secs(16)).await;
        assert_eq!(listed(cluster).await.len(), 3);
        let client = cluster.client();
        node.isolate_from_registry();
        sleep(Duration::from_secs(31)).await;
        assert_eq!(listed(cluster).await.len(), 2);
        // Its callers see it all the same.
        ask(cluster, &client, &node).await?;
        Ok(())
    });
}

#[test]
fn partitions_are_between_those_who_were_named() {
    three().run(async |cluster| -> Result<()> {
        let (west, east) = (cluster.client_on("west"), cluster.client_on("east"));
        let node = cluster.node("greeter", 0);
        ask(cluster, &west, &node).await?;
        cluster.partition(&["west"], &["greeter-0", "greeter-1"]);
        let err = ask(cluster, &west, &node).await.unwrap_err();
        assert_eq!(err.kind(), ErrorKind::DeadlineExceeded);
        ask(cluster, &east, &node).await?;
        ask(cluster, &west, &cluster.node("greeter", 2)).await?;
        cluster.heal();
        ask(cluster, &west, &node).await?;
        // One way: the call runs, and nobody hears of it.
        let calls = node.calls();
        cluster.partition_one_way(&["greeter-0"], &["west"]);
        let err = ask(cluster, &west, &node).await.unwrap_err();
        assert_eq!(err.kind(), ErrorKind::DeadlineExceeded);
        assert_eq!(node.calls(), calls + 1);
        cluster.heal();
        cluster.partition_one_way(&["west"], &["greeter-0"]);
        ask(cluster, &west, &node).await.unwrap_err();
        assert_eq!(node.calls(), calls + 1);
        Ok(())
    });
}

#[test]
fn names_that_do_not_exist_are_refused() {
    for wrong in [
        (|cluster: &Cluster| drop(cluster.node("greeter", 9))) as fn(&Cluster),
        |cluster| cluster.partition(&["greter-0"], &["registry"]),
    ] {
        let failed = catch_unwind(AssertUnwindSafe(|| {
            one().run(async |cluster| -> Result<()> {
                wrong(cluster);
                Ok(())
            });
        }));
        assert!(failed.is_err());
    }
}

#[test]
fn a_registry_that_stops_or_swallows_stops_no_call() {
    three().run(async |cluster| -> Result<()> {
        let client = cluster.client();
        hello(cluster, &client).await?;
        for trouble in [
            |cluster: &Cluster| cluster.registry().stop(),
            |cluster: &Cluster| cluster.registry().black_hole(),
            |cluster: &Cluster| cluster.registry().fail(1.0),
            |cluster: &Cluster| cluster.registry().slow(Duration::from_secs(60)),
        ] {
            trouble(cluster);
            for _ in 0..200 {
                hello(cluster, &client).await?;
                sleep(Duration::from_secs(1)).await;
            }
            cluster.registry().heal();
            sleep(Duration::from_secs(20)).await;
            assert_eq!(listed(cluster).await.len(), 3);
        }
        Ok(())
    });
}

#[test]
fn what_the_registry_lost_is_back_within_the_interval() {
    three().run(async |cluster| -> Result<()> {
        let client = cluster.client();
        hello(cluster, &client).await?;
        cluster.registry().lose();
        assert!(listed(cluster).await.is_empty());
        for _ in 0..11 {
            hello(cluster, &client).await?;
            sleep(Duration::from_secs(1)).await;
        }
        assert_eq!(listed(cluster).await.len(), 3);
        Ok(())
    });
}

#[test]
fn the_wall_clock_jumps_alone() {
    one().run(async |cluster| -> Result<()> {
        let client = cluster.client();
        hello(cluster, &client).await?;
        let (wall, now) = (cluster.clock().wall(), cluster.clock().now());
        cluster.jump_wall_clock(3600);
        let hour = Duration::from_secs(3600);
        assert_eq!(cluster.clock().wall(), wall + hour);
        cluster.jump_wall_clock(-7200);
        assert_eq!(cluster.clock().wall(), wall - hour);
        assert_eq!(cluster.clock().now(), now);
        hello(cluster, &client).await?;
        assert_eq!(listed(cluster).await.len(), 1);
        Ok(())
    });
}

#[test]
fn trouble_with_a_third_of_the_nodes_costs_few_calls() {
    Cluster::builder()
        .service("greeter", 6, greeter)
        .seeds(3)
        .run(async |cluster| -> Result<()> {
            let client = cluster.client().with_options(
                CallOptions::new()
                    .with_idempotent(true)
                    .with_timeout(Duration::from_secs(10)),
            );
            let (mut made, mut failed) = (0, 0);
            let trouble = Trouble::default().with_lasting(Duration::from_secs(120));
            let trouble = cluster.trouble(trouble.with_part(0.34));
            let mut trouble = std::pin::pin!(trouble);
            loop {
                tokio::select! {
                    biased;
                    over = &mut trouble => {
                        over?;
                        break;
                    }
                    () = sleep(Duration::from_millis(20)) => {}
                }
                made += 1;
                failed += usize::from(hello(cluster, &client).await.is_err());
            }
            assert!(made > 500, "{made}");
            assert!(failed * 50 <= made, "{failed} of {made} calls failed");
            // Everybody is there again.
            sleep(Duration::from_secs(30)).await;
            assert_eq!(listed(cluster).await.len(), 6);
            Ok(())
        });
}
