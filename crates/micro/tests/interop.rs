//! Others' clients and servers, and ours.

mod common;

#[test]
fn show() {
    use common::*;
    use micro::Contract as _;
    let rt = tokio::runtime::Runtime::new().unwrap();
    rt.block_on(async {
        let fleet = Fleet::new();
        let p = Prober {
            node: String::new(),
            seen: Default::default(),
            client: fleet.client().await,
        };
        print!(
            "{}",
            ProbeServer::new(p).routes().to_proto("probe").unwrap()
        );
    });
}
