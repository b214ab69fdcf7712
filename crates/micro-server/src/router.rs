//! From the path of a call to its route.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use micro_codec_core::Codecs;
use micro_core::{Error, Result};

use crate::Stats;
use crate::route::{Common, Route};
use crate::routes::Routes;

/// Every route of a server. It is built once and never changes, so looking up takes no lock.
#[derive(Debug)]
pub(crate) struct Router {
    by_path: HashMap<Arc<str>, Arc<dyn Route>>,
    /// The routes of each service by the method's name; the key is the full name.
    services: BTreeMap<String, HashMap<String, Arc<dyn Route>>>,
    /// The full names that end in the same part, as go-micro's clients call them.
    by_last_part: HashMap<String, Vec<String>>,
}

impl Router {
    /// Builds it for the service of this registry name.
    ///
    /// `own` routes are those of the server itself (health, reflection); they are found by full
    /// path only, so they never stand in the way of a contract of the same name.
    pub(crate) fn new(
        service: &str,
        routes: Vec<Routes>,
        own: Vec<Routes>,
        codecs: &Codecs,
    ) -> Result<Self> {
        let mut router = Self {
            by_path: HashMap::new(),
            services: BTreeMap::new(),
            by_last_part: HashMap::new(),
        };
        // They are protobuf, whatever else the server speaks.
        let own_codecs = match codecs.get(micro_codec_proto::CONTENT_TYPE) {
            Ok(_) => codecs.clone(),
            Err(_) => codecs.clone().with(micro_codec_proto::Proto),
        };
        for routes in own {
            router.add(service, routes, &own_codecs)?;
        }
        for routes in routes {
            let (full, last) = (routes.full_name(service), routes.name.to_string());
            router.add(service, routes, codecs)?;
            let names = router.by_last_part.entry(last).or_default();
            if !names.contains(&full) {
                names.push(full);
            }
        }
        Ok(router)
    }

    fn add(&mut self, service: &str, routes: Routes, codecs: &Codecs) -> Result<()> {
        let full = routes.full_name(service);
        let mut parts = full.split('.');
        if !parts.all(is_identifier) {
            return Err(
                bad("the name of a contract is proto identifiers with dots between them")
                    .with_context("contract", shown(&full)),
            );
        }
        let methods = self.services.entry(full.clone()).or_default();
        for entry in routes.methods {
            let name = entry.method.name;
            if !is_identifier(&name) {
                return Err(bad("the name of a method has letters, digits and '_' only")
                    .with_context("contract", &full)
                    .with_context("method", shown(&name)));
            }
            if entry.method.kind.is_some_and(|kind| kind != entry.kind) {
                return Err(
                    bad("the contract and the handler differ in which way streams")
                        .with_context("contract", &full)
                        .with_context("method", &name),
                );
            }
            let path: Arc<str> = format!("/{full}/{name}").into();
            let route = (entry.bind)(Common {
                path: Arc::clone(&path),
                reach: routes.reach,
                codecs: codecs.clone(),
                counters: Arc::default(),
            });
            if methods
                .insert(name.into_owned(), Arc::clone(&route))
                .is_some()
            {
                return Err(Error::already_exists(
                    "two handlers for one method: a contract is handled once, or under another package",
                )
                .with_operation("server.routes")
                .with_context("path", &path));
            }
            self.by_path.insert(path, route);
        }
        Ok(())
    }

    /// Finds the route of a path: by the whole path first, then, as go-micro does, by the last
    /// part of the service's name if that is unique.
    pub(crate) fn find(&self, path: &str) -> Result<&Arc<dyn Route>> {
        match self.by_path.get(path) {
            Some(route) => Ok(route),
            None => self.find_by_last_part(path),
        }
    }

    fn find_by_last_part(&self, path: &str) -> Result<&Arc<dyn Route>> {
        let Some((service, method)) = split(path) else {
            return Err(Error::invalid_argument(format!(
                "malformed path {}: it is /package.Service/Method",
                shown(path)
            ))
            .with_operation("server.route"));
        };
        // A service that is known by its full name is meant, even if it lacks the method.
        let methods = if let Some(methods) = self.services.get(service) {
            methods
        } else {
            let last = service.rsplit('.').next().unwrap_or(service);
            match self.by_last_part.get(last).map(Vec::as_slice) {
                Some([full]) => self.services.get(full),
                Some(several) if !several.is_empty() => {
                    return Err(unknown(format!(
                        "ambiguous service {}: it may be any of {}; call it by its full name",
                        shown(service),
                        several.join(", ")
                    )));
                }
                _ => None,
            }
            .ok_or_else(|| unknown(format!("unknown service {}", shown(service))))?
        };
        methods.get(method).ok_or_else(|| {
            unknown(format!(
                "unknown method {} for service {}",
                shown(method),
                shown(service)
            ))
        })
    }

    /// The full names of the services, sorted.
    pub(crate) fn services(&self) -> impl Iterator<Item = &str> {
        self.services.keys().map(String::as_str)
    }

    pub(crate) fn stats(&self) -> Stats {
        let mut methods: Vec<_> = self
            .by_path
            .values()
            .map(|route| {
                let common = route.common();
                common.counters.read(&common.path)
            })
            .collect();
        methods.sort_by(|a, b| a.path.cmp(&b.path));
        Stats { methods }
    }
}

/// Splits a path into the service's name and the method's: `/package.Service/Method`, or go-micro's
/// `Service.Method`.
fn split(path: &str) -> Option<(&str, &str)> {
    let (service, method) = match path.strip_prefix('/') {
        Some(path) => {
            let (service, method) = path.split_once('/')?;
            let whole = !service.is_empty() && !service.ends_with('.') && !method.contains('/');
            (whole).then_some((service, method))?
        }
        None => {
            let (service, method) = path.split_once('.')?;
            let whole = !service.is_empty() && !path.contains('/') && !method.contains('.');
            whole.then_some((service, method))?
        }
    };
    (!method.is_empty()).then_some((service, method))
}

fn is_identifier(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

fn unknown(message: String) -> Error {
    Error::unimplemented(message).with_operation("server.route")
}

fn bad(message: &'static str) -> Error {
    Error::invalid_argument(message).with_operation("server.routes")
}

/// What a stranger wrote, cut and made printable.
fn shown(text: &str) -> String {
    let mut shown: String = text.chars().take(80).flat_map(char::escape_debug).collect();
    if text.chars().nth(80).is_some() {
        shown.push('…');
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;
    use micro_codec_core::shape;
    use micro_core::ErrorKind;

    fn routes(name: &str, methods: &[&'static str]) -> Routes {
        methods
            .iter()
            .fold(Routes::dynamic(name), |routes, method| {
                routes.unary(*method, shape!(String), shape!(String), |_, text| async {
                    Ok(text)
                })
            })
    }

    fn router(routes: Vec<Routes>) -> Result<Router> {
        Router::new("greeter", routes, Vec::new(), &Codecs::new())
    }

    fn found(router: &Router, path: &str) -> Result<String> {
        let route = router.find(path)?;
        Ok(route.common().path.to_string())
    }

    #[test]
    fn paths_split_as_in_go_micro() {
        // `util/grpc/grpc_test.go` of go-micro v3.
        for (path, service) in [
            ("Foo.Bar", "Foo"),
            ("/Foo/Bar", "Foo"),
            ("/package.Foo/Bar", "package.Foo"),
            ("/a.package.Foo/Bar", "a.package.Foo"),
        ] {
            assert_eq!(split(path), Some((service, "Bar")), "{path}");
        }
        for path in [
            "a.package.Foo/Bar",
            "/Foo/Bar/Baz",
            "Foo.Bar.Baz",
            // Ours.
            "",
            "/",
            "//",
            "/Foo",
            "/Foo/",
            "//Bar",
            "/Foo./Bar",
            ".",
            "Foo.",
            ".Bar",
            "Foo",
        ] {
            assert_eq!(split(path), None, "{path}");
        }
    }

    #[test]
    fn the_whole_path_goes_first_and_the_last_part_second() {
        let router = router(vec![
            routes("Greeter", &["Hello"]),
            routes("other.v1.Clock", &["Now"]),
        ])
        .unwrap();
        for path in [
            "/greeter.Greeter/Hello",
            "/Greeter/Hello",
            "/any.package.Greeter/Hello",
            "Greeter.Hello",
        ] {
            assert_eq!(found(&router, path).unwrap(), "/greeter.Greeter/Hello");
        }
        for (path, kind, message) in [
            (
                "/greeter.Nobody/Hello",
                ErrorKind::Unimplemented,
                "unknown service greeter.Nobody",
            ),
            (
                "/greeter.Greeter/Bye",
                ErrorKind::Unimplemented,
                "unknown method Bye for service greeter.Greeter",
            ),
            (
                "/favicon.ico",
                ErrorKind::InvalidArgument,
                "malformed path /favicon.ico: it is /package.Service/Method",
            ),
        ] {
            let err = found(&router, path).unwrap_err();
            assert_eq!((err.kind(), err.message()), (kind, message));
        }
    }

    #[test]
    fn what_is_not_unique_is_called_by_its_full_name() {
        let router = router(vec![
            routes("a.Greeter", &["Hello"]),
            routes("b.Greeter", &["Hello", "Bye"]),
        ])
        .unwrap();
        assert!(found(&router, "/a.Greeter/Hello").is_ok());
        let err = found(&router, "/c.Greeter/Bye").unwrap_err();
        assert_eq!(err.kind(), ErrorKind::Unimplemented);
        assert!(err.message().contains("a.Greeter, b.Greeter"), "{err}");
        // A known service is not left for another one that has the method.
        let err = found(&router, "/a.Greeter/Bye").unwrap_err();
        assert!(err.message().starts_with("unknown method Bye"), "{err}");
    }

    #[test]
    fn the_server_s_own_services_shadow_nobody() {
        let own = vec![routes("grpc.health.v1.Health", &["Check"])];
        let theirs = vec![routes("Health", &["Check"])];
        let router = Router::new("clinic", theirs, own, &Codecs::new()).unwrap();
        assert_eq!(
            found(&router, "/x.Health/Check").unwrap(),
            "/clinic.Health/Check"
        );
        assert_eq!(
            found(&router, "/grpc.health.v1.Health/Check").unwrap(),
            "/grpc.health.v1.Health/Check"
        );
    }

    #[test]
    fn mistakes_are_found_when_it_is_built() {
        for (routes, kind) in [
            (
                vec![routes("A", &["X"]), routes("A", &["X"])],
                ErrorKind::AlreadyExists,
            ),
            (vec![routes("A", &["X/Y"])], ErrorKind::InvalidArgument),
            (vec![routes("A/B", &["X"])], ErrorKind::InvalidArgument),
            (vec![routes("", &["X"])], ErrorKind::InvalidArgument),
        ] {
            assert_eq!(router(routes).unwrap_err().kind(), kind);
        }
        assert!(router(vec![routes("A", &["X"]), routes("A", &["Y"])]).is_ok());
    }

    #[test]
    fn a_stranger_s_text_is_cut_and_made_printable() {
        let router = router(Vec::new()).unwrap();
        let path = format!("/{}\n/x", "y".repeat(1000));
        let err = found(&router, &path).unwrap_err();
        assert!(err.message().len() < 200 && !err.message().contains('\n'));
    }
}
