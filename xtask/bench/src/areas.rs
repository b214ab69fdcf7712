//! The areas that can be measured. A new one is a module here and a line in [`AREAS`].

#[cfg(feature = "broker")]
mod broker;
#[cfg(feature = "config")]
mod config;
#[cfg(feature = "discovery")]
mod discovery;
#[cfg(all(feature = "discovery", feature = "micro"))]
mod overload;
mod rpc;
#[cfg(feature = "store")]
mod store;
#[cfg(feature = "sync")]
mod sync;

use crate::Result;
use crate::options::Options;
use crate::report::Findings;

/// One thing to measure.
pub(crate) struct Area {
    /// As on the command line, and the first part of its figures' names.
    pub(crate) name: &'static str,
    pub(crate) about: &'static str,
    pub(crate) run: fn(&Options) -> Result<Findings>,
}

impl std::fmt::Debug for Area {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Area")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

/// All of them.
pub(crate) const AREAS: &[Area] = &[
    Area {
        name: "rpc",
        about: "a unary echo: raw multiplexer, hyper, tonic and micro in turns",
        run: rpc::run,
    },
    #[cfg(feature = "discovery")]
    Area {
        name: "discovery",
        about: "fleets on bad days in simulated time, picks, cached resolution",
        run: discovery::run,
    },
    #[cfg(feature = "broker")]
    Area {
        name: "broker",
        about: "messages in memory beside a channel, and over HTTP beside bare hyper",
        run: broker::run,
    },
    #[cfg(feature = "config")]
    Area {
        name: "config",
        about: "reads of a live value beside ArcSwap, and how soon a change of a file shows",
        run: config::run,
    },
    #[cfg(feature = "store")]
    Area {
        name: "store",
        about: "stores in memory and in files beside a map and the engines themselves",
        run: store::run,
    },
    #[cfg(feature = "sync")]
    Area {
        name: "sync",
        about: "locks in memory, and in etcd and PostgreSQL beside their requests by hand",
        run: sync::run,
    },
];

/// Is a child of an area, whose name comes first.
pub(crate) fn play(role: &[String]) -> Result<()> {
    match role {
        #[cfg(feature = "broker")]
        [area, arguments @ ..] if area == "broker" => broker::play(arguments),
        _ => Err("no such role".into()),
    }
}
