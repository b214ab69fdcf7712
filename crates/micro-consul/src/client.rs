//! Requests, and the answers that are Consul's.

use std::fmt;
use std::time::Duration;

use micro_core::{Error, ErrorKind, Result};
use micro_http::{HttpClient, Request, Response};
use serde::de::DeserializeOwned;

use crate::ConsulConfig;

/// How a read is done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Read {
    /// Any server may answer, even one that is behind. Else the leader does.
    pub stale: bool,
    /// The leader makes sure that it still leads before it answers. Outweighs [`stale`](Self::stale).
    pub consistent: bool,
    /// Waits for so long for a state later than this index.
    pub after: Option<(u64, Duration)>,
}

impl Read {
    /// Sets [`stale`](Self::stale).
    #[must_use]
    pub const fn with_stale(mut self, stale: bool) -> Self {
        self.stale = stale;
        self
    }

    /// Sets [`consistent`](Self::consistent).
    #[must_use]
    pub const fn with_consistent(mut self, consistent: bool) -> Self {
        self.consistent = consistent;
        self
    }

    /// Sets [`after`](Self::after).
    #[must_use]
    pub const fn with_after(mut self, after: Option<(u64, Duration)>) -> Self {
        self.after = after;
        self
    }
}

/// An answer, and the index of the state that it shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Indexed<T> {
    /// At least 1.
    pub index: u64,
    /// The answer.
    pub value: T,
}

impl<T> Indexed<T> {
    /// The index to ask with next, if `known` was it so far; `None` to begin again.
    ///
    /// After a restart with an older state an index is smaller. Waiting for the old one would take
    /// until it is reached again.
    #[must_use]
    pub fn follow(&self, known: Option<u64>) -> Option<u64> {
        let goes_on = known.is_none_or(|known| self.index >= known);
        goes_on.then_some(self.index)
    }
}

/// Consul's HTTP API at one place. Clones share their connections.
#[derive(Clone)]
pub struct Client {
    http: HttpClient,
    datacenter: Option<String>,
}

impl Client {
    /// A client; it connects when it is used.
    ///
    /// # Errors
    ///
    /// `InvalidArgument` if the configuration names no agent.
    pub fn new(config: &ConsulConfig) -> Result<Self> {
        Ok(Self {
            http: HttpClient::new(config.http.clone())?,
            datacenter: config.datacenter.clone(),
        })
    }

    /// Sends a request as it is; whatever the status of the answer.
    ///
    /// # Errors
    ///
    /// Those of [`HttpClient::send`]; what is late is `Unavailable`.
    pub async fn send(&self, request: &Request) -> Result<Response> {
        self.http.send(request).await.map_err(unreachable)
    }

    /// Adds the datacenter.
    pub(crate) fn there(&self, request: Request) -> Request {
        match &self.datacenter {
            Some(datacenter) => request.query("dc", datacenter),
            None => request,
        }
    }

    /// A read; whatever the status.
    pub(crate) async fn ask(&self, request: Request, read: Read) -> Result<Response> {
        let mut request = self.there(request);
        if read.consistent {
            request = request.query("consistent", "true");
        } else if read.stale {
            request = request.query("stale", "true");
        }
        if let Some((index, wait)) = read.after {
            // Consul adds up to a sixteenth of the wait.
            request = request
                .query("index", &index.to_string())
                .query("wait", &format!("{}ms", wait.as_millis()))
                .long(wait + wait / 16);
        }
        self.send(&request).await
    }

    /// A read of a JSON value.
    ///
    /// # Errors
    ///
    /// Those of [`send`](Self::send) and [`success`]; `Unknown` for an answer that is not what was
    /// expected.
    pub async fn read<T: DeserializeOwned>(
        &self,
        request: Request,
        read: Read,
    ) -> Result<Indexed<T>> {
        let response = success(self.ask(request, read).await?)?;
        Ok(Indexed {
            index: index(&response)?,
            value: response.json()?,
        })
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field("agents", &self.http.config().endpoints)
            .field("datacenter", &self.datacenter)
            .finish()
    }
}

/// The index of the state that an answer shows.
pub(crate) fn index(response: &Response) -> Result<u64> {
    let index: u64 = response
        .header("x-consul-index")
        .and_then(|index| index.parse().ok())
        .ok_or_else(|| Error::unknown("the answer has no X-Consul-Index: is this Consul?"))?;
    // An index of 0 would make the next request not wait.
    Ok(index.max(1))
}

/// An answer, if it is a success.
///
/// # Errors
///
/// Those of [`Response::success`]; a path that is not there is `Unavailable`, since it is one of
/// Consul's.
pub fn success(response: Response) -> Result<Response> {
    response.success().map_err(|err| match err.kind() {
        // A token that Consul does not know is refused with 403 as well.
        ErrorKind::NotFound => Error::unavailable("this is not Consul's HTTP API").with_source(err),
        _ => err,
    })
}

/// A Consul that does not answer is unavailable, however it does not answer.
fn unreachable(err: Error) -> Error {
    match err.kind() {
        ErrorKind::DeadlineExceeded => {
            Error::unavailable("Consul did not answer in time").with_source(err)
        }
        _ => err,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_index_that_goes_back_is_begun_again() {
        let at = |index| Indexed { index, value: () };
        assert_eq!(at(5).follow(None), Some(5));
        assert_eq!(at(5).follow(Some(5)), Some(5));
        assert_eq!(at(7).follow(Some(5)), Some(7));
        assert_eq!(at(3).follow(Some(7)), None);
    }
}
