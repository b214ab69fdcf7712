//! Messages: the broker in memory beside a channel, and the one over HTTP beside bare hyper, on one
//! machine and across two network namespaces.

mod http;
mod memory;
mod nats;
mod net;
mod redis;

use crate::Result;
use crate::options::Options;
use crate::report::Findings;

/// Measures.
pub(crate) fn run(options: &Options) -> Result<Findings> {
    eprintln!("broker: in memory");
    let mut findings = memory::run(options)?;
    eprintln!("broker: over HTTP");
    let here = http::run(options, None)?;
    findings.tables.extend(here.tables);
    findings.figures.extend(here.figures);
    match net::Net::new() {
        Some(net) => {
            eprintln!("broker: over HTTP, across two network namespaces");
            let across = http::run(options, Some(&net))?;
            findings.tables.extend(across.tables);
            findings.figures.extend(across.figures);
        }
        None => eprintln!("broker: network namespaces want root and iproute2: skipped"),
    }
    eprintln!("broker: over NATS");
    let nats = nats::run(options)?;
    findings.tables.extend(nats.tables);
    findings.figures.extend(nats.figures);
    eprintln!("broker: in Redis");
    let redis = redis::run(options)?;
    findings.tables.extend(redis.tables);
    findings.figures.extend(redis.figures);
    Ok(findings)
}

/// Is one end of a measurement, until the parent goes.
pub(crate) fn play(arguments: &[String]) -> Result<()> {
    match arguments {
        [role, ip] if role == "serve" => http::serve(ip),
        [role, target] if role == "load" => http::load(target),
        _ => Err("role broker serve <ip> | load <target>".into()),
    }
}
