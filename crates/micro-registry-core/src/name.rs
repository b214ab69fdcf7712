//! What a service may be called, and what may be registered.

use crate::{Error, Result, Service};

/// Checks the name of a service: 1 to 128 ASCII letters, digits, `.`, `-` and `_`, beginning and
/// ending with a letter or digit.
///
/// # Errors
///
/// `InvalidArgument`, saying what is allowed.
///
/// ```
/// use micro_registry_core::check_name;
///
/// assert!(check_name("go.micro.srv.greeter").is_ok());
/// assert!(check_name("greeter/../admin").is_err());
/// ```
pub fn check_name(name: &str) -> Result<()> {
    let bytes = name.as_bytes();
    let ends = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
    let valid = bytes.len() <= 128
        && ends(bytes.first())
        && ends(bytes.last())
        && bytes
            .iter()
            .all(|byte| byte.is_ascii_alphanumeric() || b".-_".contains(byte));
    if valid {
        return Ok(());
    }
    let shown: String = name.chars().take(40).flat_map(char::escape_debug).collect();
    Err(Error::invalid_argument(
        "a service name has 1 to 128 letters, digits, '.', '-' and '_', and begins and ends with a letter or digit",
    )
    .with_context("name", shown))
}

/// Checks what is given to [`Registry::register`](crate::Registry::register): a good name, at least
/// one node, and nodes with an id and an address, in which no control character hides.
///
/// Every backend calls it first, so that all refuse the same.
///
/// # Errors
///
/// `InvalidArgument`, saying what is missing.
///
/// ```
/// use micro_registry_core::{Node, Service, check_registration};
///
/// let service = Service::new("greeter", "v1");
/// assert!(check_registration(&service).is_err());
/// assert!(check_registration(&service.with_node(Node::new("a", "127.0.0.1:80"))).is_ok());
/// ```
pub fn check_registration(service: &Service) -> Result<()> {
    check_name(&service.name)?;
    let invalid = |message: &'static str| {
        Error::invalid_argument(message).with_context("service", &service.name)
    };
    if service.nodes.is_empty() {
        return Err(invalid(
            "a registration needs a node: add Node::new(id, \"host:port\")",
        ));
    }
    let sound =
        |text: &str| !text.is_empty() && text.len() <= 512 && !text.contains(char::is_control);
    for node in &service.nodes {
        if !sound(&node.id) {
            return Err(invalid(
                "a node needs an id of 1 to 512 bytes without control characters, unique among the service's nodes",
            ));
        }
        if !sound(&node.address) {
            return Err(invalid(
                "a node needs an address, 'host:port' of at most 512 bytes without control characters",
            )
            .with_context("node", &node.id));
        }
    }
    Ok(())
}

/// Checks what [`Registry::deregister`](crate::Registry::deregister) is given: a name, and the ids
/// of the nodes; nothing else needs to be there. Every backend calls it first.
///
/// # Errors
///
/// `InvalidArgument`, saying what is missing.
pub fn check_deregistration(service: &Service) -> Result<()> {
    check_name(&service.name)?;
    if service.nodes.iter().any(|node| node.id.is_empty()) {
        return Err(
            Error::invalid_argument("a node is deregistered by its id, and one has none")
                .with_context("service", &service.name),
        );
    }
    Ok(())
}
