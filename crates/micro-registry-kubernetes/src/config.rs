//! What the URL and the pod's files say.

use std::path::{Path, PathBuf};
use std::time::Duration;

use micro_core::url::{Options, Span};
use micro_core::{Error, Secret};
use micro_http::{Credentials, HttpConfig};
use micro_registry_core::{Result, Url};

/// Where Kubernetes puts what a pod needs to speak to its API server.
const ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
/// A page of the longest registrations.
const MAX_BODY: usize = 32 << 20;
/// The port of an API server that is named without one.
const DEFAULT_PORT: u16 = 443;

/// How to reach the API server, and where to look.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct KubernetesConfig {
    /// The API servers, deadlines and TLS.
    pub http: HttpConfig,
    /// The file with the service account's token. It is read again when it may have been rotated:
    /// once a minute, and when a token is not accepted.
    pub token_file: Option<PathBuf>,
    /// The Kubernetes namespace. Default: the pod's own, else `default`.
    pub namespace: String,
    /// The name of the port that nodes listen on. Default: `micro`, else `grpc`, else the only one.
    pub port: Option<String>,
    /// How long one watch request lasts before it is made anew, 1 s to 1 h. Default 5 min.
    pub wait: Duration,
}

impl KubernetesConfig {
    /// The defaults, with these API servers (`host:port`), in plain text.
    #[must_use]
    pub fn new(endpoints: Vec<String>) -> Self {
        Self {
            http: HttpConfig::new(endpoints).with_max_body(MAX_BODY),
            token_file: None,
            namespace: "default".to_owned(),
            port: None,
            wait: Duration::from_secs(300),
        }
    }

    /// Reads `kubernetes://host:port?namespace=…&token_file=…&token=…&ca=ca.crt&port=grpc&wait=5m`
    /// `&timeout=5s&cert=…&key=…&server_name=…`; without a host, what Kubernetes gave to the pod.
    ///
    /// With `ca` it is HTTPS, without it plain HTTP, as `kubectl proxy` speaks.
    ///
    /// # Errors
    ///
    /// `InvalidArgument` for an option that is unknown, given twice or not readable, and for a token
    /// that would go to another machine in plain text;
    /// `FailedPrecondition` without a host outside of a cluster; what reading the files says.
    pub fn from_url(url: &Url) -> Result<Self> {
        let invalid = |message: &'static str| {
            Error::invalid_argument(message).with_operation("kubernetes.open")
        };
        if !matches!(url.path(), "" | "/") {
            return Err(invalid(
                "a Kubernetes URL has no path: 'kubernetes://host:443?namespace=name&option=value'",
            ));
        }
        let mut options = Options::new(url);
        let endpoints = options.endpoints(DEFAULT_PORT)?;
        let mut config = if endpoints.is_empty() {
            Self::in_cluster(Path::new(ACCOUNT), |name| std::env::var(name).ok())?
        } else {
            Self::new(endpoints)
        };
        config.http = config.http.with_options(&mut options)?;
        let token: Option<String> = options.take("token")?;
        let file: Option<String> = options.take("token_file")?;
        match (token, file) {
            (Some(_), Some(_)) => {
                return Err(invalid("give 'token' or 'token_file', and not both"));
            }
            (Some(token), None) => {
                config.token_file = None;
                config.http.credentials = Credentials::Bearer(Secret::new(token));
            }
            (None, Some(file)) => config.token_file = Some(PathBuf::from(file)),
            (None, None) => {}
        }
        if let Some(namespace) = options.take("namespace")? {
            config.namespace = namespace;
        }
        if !is_label(&config.namespace) {
            return Err(invalid(
                "a Kubernetes namespace has 1 to 63 small letters, digits and '-'",
            ));
        }
        config.port = options.take("port")?;
        if let Some(Span(wait)) = options.take("wait")? {
            config.wait = wait;
        }
        if !(Duration::from_secs(1)..=Duration::from_secs(3600)).contains(&config.wait) {
            return Err(invalid("'wait' is 1s to 1h"));
        }
        options.finish()?;
        config.check()?;
        Ok(config)
    }

    /// Checks what fields alone cannot say.
    pub(crate) fn check(&self) -> Result<()> {
        let has_token = self.token_file.is_some() || self.http.credentials != Credentials::None;
        if has_token && !self.http.is_private() {
            // No API server wants it so, and whoever reads it on the way is in the cluster.
            return Err(Error::invalid_argument(
                "a token is not sent to another machine in plain text: add 'ca', the authority of the API server",
            )
            .with_operation("kubernetes.open"));
        }
        Ok(())
    }

    fn in_cluster(account: &Path, variable: impl Fn(&str) -> Option<String>) -> Result<Self> {
        let (Some(host), Some(port)) = (
            variable("KUBERNETES_SERVICE_HOST"),
            variable("KUBERNETES_SERVICE_PORT"),
        ) else {
            return Err(Error::failed_precondition(
                "this is no pod of a cluster: name the API server, 'kubernetes://host:port'",
            )
            .with_operation("kubernetes.open"));
        };
        let host = if host.contains(':') {
            format!("[{host}]")
        } else {
            host
        };
        let mut config = Self::new(vec![format!("{host}:{port}")]);
        let ca = account.join("ca.crt");
        config.http = config.http.with_ca(ca.display().to_string())?;
        config.token_file = Some(account.join("token"));
        if let Ok(namespace) = std::fs::read_to_string(account.join("namespace")) {
            namespace.trim().clone_into(&mut config.namespace);
        }
        Ok(config)
    }
}

/// RFC 1123's label: what a namespace is called.
fn is_label(text: &str) -> bool {
    let end = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = text.as_bytes();
    (1..=63).contains(&bytes.len())
        && bytes.first().is_some_and(end)
        && bytes.last().is_some_and(end)
        && bytes.iter().all(|byte| end(byte) || *byte == b'-')
}

#[cfg(test)]
mod tests {
    use micro_core::ErrorKind;

    use super::*;

    fn config(url: &str) -> Result<KubernetesConfig> {
        KubernetesConfig::from_url(&micro_core::url::resolve(url)?)
    }

    #[test]
    fn the_url_says_it_all_and_debug_does_not() {
        let config =
            config("kubernetes://localhost:1?endpoint=127.0.0.1&namespace=shop&token=hunter2&port=web&wait=9s")
                .unwrap();
        assert_eq!(config.http.endpoints, ["localhost:1", "127.0.0.1:443"]);
        assert_eq!(config.namespace, "shop");
        assert_eq!(config.port.as_deref(), Some("web"));
        assert!(!format!("{config:?}").contains("hunter2"));
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for url in [
            "kubernetes://a?namespace=A",
            "kubernetes://a?namespace=a/../b",
            "kubernetes://a?wait=0s",
            "kubernetes://a/shop",
            "kubernetes://a?token=a&token_file=b",
            "kubernetes://a?nmaespace=b",
            "kubernetes://a?token=hunter2",
            "kubernetes://127.0.0.1?endpoint=a&token_file=hunter2",
        ] {
            let err = config(url).unwrap_err();
            assert_eq!(err.kind(), ErrorKind::InvalidArgument, "{url}: {err}");
            assert!(!format!("{err:?}").contains("hunter2"), "{err:?}");
        }
    }

    #[test]
    fn a_pod_is_told_where_it_is() {
        let dir = std::env::temp_dir().join(format!("micro-kubernetes-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        std::fs::write(dir.join("namespace"), "shop\n").unwrap();
        let authority = micro_tls::dev::Authority::new("cluster").unwrap();
        std::fs::write(dir.join("ca.crt"), authority.pem()).unwrap();
        let variable = |name: &str| {
            Some(
                if name.ends_with("HOST") {
                    "fd00::1"
                } else {
                    "443"
                }
                .to_owned(),
            )
        };
        let config = KubernetesConfig::in_cluster(&dir, variable).unwrap();
        assert_eq!(config.http.endpoints, ["[fd00::1]:443"]);
        assert_eq!(config.namespace, "shop");
        assert!(config.http.is_secure());
        assert_eq!(config.token_file, Some(dir.join("token")));
        std::fs::remove_dir_all(&dir).unwrap();
        let err = KubernetesConfig::in_cluster(&dir, |_| None).unwrap_err();
        assert_eq!(err.kind(), ErrorKind::FailedPrecondition);
    }
}
