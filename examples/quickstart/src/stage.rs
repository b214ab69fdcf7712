//! Starts server and client as processes of their own, and watches the service come and go.

use std::time::{Duration, Instant};

use micro::registry::RegistryExt as _;
use micro::{Client, Error, ErrorKind, Result};
use tokio::process::{Child, Command};

pub(crate) async fn run() -> Result<()> {
    println!("starting the service 'greeter' in a process of its own");
    let mut server = part("serve")?;

    println!("starting a client in another process: it looks for 'greeter' by multicast DNS");
    let done = part("call")?.wait().await?;
    if !done.success() {
        return Err(Error::internal("the client failed"));
    }

    let client = Client::from_env().await?;
    client.registry().get("greeter").await?;
    println!("stopping the service with SIGTERM");
    let stopped = now();
    terminate(&mut server).await?;
    let gone = gone_after(&client, stopped).await?;
    println!("  'greeter' left discovery after {} ms", gone.as_millis());
    if !server.wait().await?.success() {
        return Err(Error::internal("the service did not stop cleanly"));
    }
    println!(
        "  the service ended cleanly after {} ms",
        stopped.elapsed().as_millis()
    );
    Ok(())
}

fn part(name: &str) -> Result<Child> {
    let program = std::env::current_exe()?;
    Ok(Command::new(program).arg(name).kill_on_drop(true).spawn()?)
}

/// Asks a process to stop, as a supervisor does.
async fn terminate(child: &mut Child) -> Result<()> {
    let pid = child
        .id()
        .ok_or_else(|| Error::internal("the service is gone already"))?;
    if cfg!(unix) {
        let kill = format!("kill -TERM {pid}");
        Command::new("sh").args(["-c", &kill]).status().await?;
    } else {
        child.start_kill()?;
    }
    Ok(())
}

async fn gone_after(client: &Client, since: Instant) -> Result<Duration> {
    loop {
        match client.registry().get("greeter").await {
            Err(err) if err.kind() == ErrorKind::NotFound => return Ok(since.elapsed()),
            Err(err) => return Err(err),
            Ok(_) if since.elapsed() > Duration::from_secs(10) => {
                return Err(Error::internal("the service is still in discovery"));
            }
            Ok(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "an example measures real time")]
fn now() -> Instant {
    Instant::now()
}
