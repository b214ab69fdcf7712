//! What somebody who can write to the registry can do to a client, and cannot.

use std::time::Duration;

use micro_client::Client;
use micro_codec_core::shape;
use micro_core::{ErrorKind, Result};
use micro_registry_core::{Node, RegisterOptions, Registry as _, RegistryExt as _, Service};
use micro_server::Routes;
use micro_testing::{Builder, Cluster};
use micro_transport_core::TlsIdentity;
use tokio::time::sleep;

fn greeter() -> Routes {
    Routes::dynamic("Greeter").unary(
        "Hello",
        shape!(String),
        shape!(String),
        |_cx, name: String| async move { Ok(name) },
    )
}

fn one() -> Builder {
    Cluster::builder().service("greeter", 1, |_| greeter())
}

async fn hello(cluster: &Cluster, client: &Client) -> Result<String> {
    let call = client.call("greeter", "Greeter.Hello", &"Ada");
    call.send(&cluster.context()).await
}

/// Writes into the registry, past everybody.
async fn forge(cluster: &Cluster, node: Node) {
    let service = Service::new("greeter", "latest").with_node(node);
    let directory = cluster.registry().directory();
    let opts = RegisterOptions::default();
    directory.register(&service, opts).await.unwrap();
}

#[test]
fn s51_an_address_that_leads_elsewhere_is_never_dialled() {
    one().run(async |cluster| -> Result<()> {
        let client = cluster.client();
        hello(cluster, &client).await?;
        for (index, address) in ["169.254.169.254:80", "0.0.0.0:80", "[::ffff:10.0.0.1]:80"]
            .iter()
            .enumerate()
        {
            forge(cluster, Node::new(format!("forged-{index}"), *address)).await;
        }
        for _ in 0..200 {
            hello(cluster, &client).await?;
            sleep(Duration::from_millis(500)).await;
        }
        for host in ["169.254", "0.0.0.0", "ffff"] {
            assert_eq!(cluster.history().count(&format!("> {host}")), 0);
            assert_eq!(cluster.history().count(&format!("> [::{host}")), 0);
        }
        Ok(())
    });
}

#[test]
fn s52_a_node_cannot_talk_a_client_out_of_tls() {
    let builder = one().client_options(|options| options.with_tls(TlsIdentity::new()));
    builder.run(async |cluster| -> Result<()> {
        let client = cluster.client();
        for (name, value) in [("secure", "false"), ("tls", "off"), ("protocol", "plain")] {
            let (id, address) = cluster.node("greeter", 0).registered_as().unwrap();
            forge(cluster, Node::new(id, address).with_metadata(name, value)).await;
            // The transport in memory has no TLS, and plaintext is not what was asked for.
            let err = hello(cluster, &client).await.unwrap_err();
            assert_eq!(err.kind(), ErrorKind::Unimplemented, "{err}");
        }
        assert_eq!(cluster.node("greeter", 0).calls(), 0);
        Ok(())
    });
}

#[test]
fn s54_an_old_registration_that_is_replayed_changes_nothing() {
    let builder = one().server_options(|_, options| options.with_id("the-one"));
    builder.run(async |cluster| -> Result<()> {
        let (client, node) = (cluster.client(), cluster.node("greeter", 0));
        hello(cluster, &client).await?;
        let before = cluster.registry().directory().get("greeter").await?;
        sleep(Duration::from_secs(5)).await;
        node.restart().await?;
        sleep(Duration::from_secs(5)).await;
        hello(cluster, &client).await?;
        let (_, address) = node.registered_as().unwrap();
        assert_ne!(before[0].nodes[0].address, address);
        // What the dead program said, late or replayed; the registry itself takes it.
        let dials = cluster.history().count("> greeter-0: not connected");
        let directory = cluster.registry().directory();
        let opts = RegisterOptions::default();
        directory.register(&before[0], opts).await?;
        for _ in 0..20 {
            hello(cluster, &client).await?;
            sleep(Duration::from_millis(200)).await;
        }
        assert_eq!(
            cluster.history().count("> greeter-0: not connected"),
            dials,
            "the dead program was called"
        );
        Ok(())
    });
}
