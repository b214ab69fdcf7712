//! A [`Selector`] with the strategy `{{backend}}`. URL: `{{backend}}`.
//!
//! ```
//! use std::time::{Duration, Instant};
//!
//! use {{lib}}::{{Type}}Selector;
//! use micro_registry_core::Node;
//! use micro_selector_core::{Entry, Nodes, Outcome, PickHint, Selector as _};
//!
//! let nodes: Nodes = [Node::new("a", "10.0.0.1:80"), Node::new("b", "10.0.0.2:80")]
//!     .map(|node| Entry::new(node, "v1"))
//!     .into_iter()
//!     .collect();
//! let now = Instant::now();
//! let pick = {{Type}}Selector::default().pick(&nodes, &PickHint::new(now)).unwrap();
//! pick.finish(Outcome::Success(Duration::from_millis(3)), now);
//! ```

mod config;
mod selector;

use std::sync::Arc;

use micro_selector_core::{Driver, Env, Result, Selector, Url, async_trait};

pub use self::config::{{Type}}Config;
pub use self::selector::{{Type}}Selector;

/// The URL scheme of this strategy.
pub const SCHEME: &str = "{{backend}}";

/// Opens `{{backend}}` URLs: give it to `Drivers::with`.
#[derive(Clone, Copy, Debug, Default)]
pub struct {{Type}}Driver;

#[async_trait]
impl Driver<dyn Selector> for {{Type}}Driver {
    fn schemes(&self) -> &'static [&'static str] {
        &[SCHEME]
    }

    async fn open(&self, url: &Url, env: &Env) -> Result<Arc<dyn Selector>> {
        let config = {{Type}}Config::from_url(url, env)?;
        Ok(Arc::new({{Type}}Selector::new(config)))
    }
}
