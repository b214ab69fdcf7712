//! Starting, restarting and stopping.

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use common::{Fleet, Probe as _, ping};
use micro::registry::RegistryExt as _;
use micro::{Context, Error, ErrorKind};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rolling_restart_under_load_fails_no_call() {
    let fleet = Fleet::new();
    let mut nodes = Vec::new();
    for i in 0..3 {
        nodes.push(fleet.start("probe", &format!("probe-{i}")).await);
    }
    let probe = fleet.probe("probe").await;
    let stop = Arc::new(AtomicBool::new(false));
    let calls = Arc::new(AtomicUsize::new(0));
    let callers: Vec<_> = (0..64)
        .map(|caller| {
            let (probe, stop, calls) = (probe.clone(), Arc::clone(&stop), Arc::clone(&calls));
            tokio::spawn(async move {
                while !stop.load(Ordering::Relaxed) {
                    let cx = Context::new().with_timeout(Duration::from_secs(10));
                    // Some calls are quick, some are under way when a node stops.
                    let outcome = if caller % 4 == 0 {
                        probe.sleep(&cx, ping("", 20)).await
                    } else {
                        probe.echo(&cx, ping("", 0)).await
                    };
                    outcome?;
                    calls.fetch_add(1, Ordering::Relaxed);
                }
                Ok::<_, Error>(())
            })
        })
        .collect();
    for (i, slot) in nodes.iter_mut().enumerate() {
        tokio::time::sleep(Duration::from_millis(200)).await;
        let fresh = fleet.start("probe", &format!("probe-{i}-again")).await;
        let (old, _) = std::mem::replace(slot, fresh);
        old.stop().await.unwrap();
    }
    tokio::time::sleep(Duration::from_millis(200)).await;
    stop.store(true, Ordering::Relaxed);
    for caller in callers {
        caller.await.unwrap().expect("no call fails");
    }
    let calls = calls.load(Ordering::Relaxed);
    assert!(calls > 1000, "{calls} calls were made");
}

#[tokio::test]
async fn a_stopped_service_leaves_discovery_and_finishes_its_calls() {
    let fleet = Fleet::new();
    let (running, _) = fleet.start("probe", "probe-1").await;
    let probe = fleet.probe("probe").await;
    let cx = Context::new().with_timeout(Duration::from_secs(10));
    probe.echo(&cx, ping("", 0)).await.unwrap();
    let call = tokio::spawn(async move { probe.sleep(&cx, ping("", 300)).await });
    tokio::time::sleep(Duration::from_millis(50)).await;
    running.stop().await.unwrap();
    call.await.unwrap().unwrap();
    let err = fleet.registry.get("probe").await.unwrap_err();
    assert_eq!(err.kind(), ErrorKind::NotFound);
}

#[tokio::test]
async fn hooks_run_in_order_and_an_error_before_the_start_ends_it() {
    let fleet = Fleet::new();
    let order = Arc::new(std::sync::Mutex::new(Vec::new()));
    let note = |what: &'static str| {
        let order = Arc::clone(&order);
        move || async move {
            order.lock().unwrap().push(what);
            Ok(())
        }
    };
    let running = fleet
        .service("hooked")
        .before_start(note("before start"))
        .after_start(note("after start"))
        .before_stop(note("before stop"))
        .after_stop(note("after stop"))
        .start()
        .await
        .unwrap();
    running.stop().await.unwrap();
    assert_eq!(
        *order.lock().unwrap(),
        ["before start", "after start", "before stop", "after stop"]
    );

    let failed = fleet
        .service("refused")
        .before_start(|| async { Err(Error::failed_precondition("no database")) })
        .start()
        .await
        .unwrap_err();
    assert_eq!(failed.kind(), ErrorKind::FailedPrecondition);
    assert!(fleet.registry.get("refused").await.is_err());
}

#[tokio::test]
async fn several_services_live_in_one_process() {
    let fleet = Fleet::new();
    let (a, _) = fleet.start("one", "one-1").await;
    let (b, _) = fleet.start("two", "two-1").await;
    assert_ne!(a.address(), b.address());
    let mut names: Vec<_> = fleet
        .registry
        .list()
        .await
        .unwrap()
        .into_iter()
        .map(|s| s.name)
        .collect();
    names.sort();
    assert_eq!(names, ["one", "two"]);
    a.stop().await.unwrap();
    assert!(fleet.registry.get("one").await.is_err());
    assert!(fleet.registry.get("two").await.is_ok());
}

#[tokio::test]
async fn bad_settings_are_refused_before_anything_starts() {
    use micro::{Service, Settings};
    for (name, value, part) in [
        ("MICRO_REGISTRY", "nowhere://127.0.0.1:2379", "available: "),
        ("MICRO_REGISTRY", "nonsense", "no backend for 'nonsense'"),
        ("MICRO_REGISTRY", "localhost:2379", "without a scheme"),
        ("MICRO_REGISTRY", "memory:?typo=1", "no such option"),
        ("MICRO_REGISTER_TTL", "soon", "MICRO_REGISTER_TTL"),
        ("MICRO_SERVER_METADATA", "zone", "key=value"),
        ("MICRO_SERVER_ADDRESS", "not an address:80", "address"),
    ] {
        let mut pairs = vec![(name, value)];
        if name != "MICRO_REGISTRY" {
            pairs.push(("MICRO_REGISTRY", "memory"));
        }
        let settings = Settings::from_pairs(pairs).unwrap();
        let err = Service::new("x")
            .settings(settings)
            .start()
            .await
            .unwrap_err();
        assert!(err.to_string().contains(part), "{name}={value}: {err}");
    }
}
