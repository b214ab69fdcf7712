//! Runs the suite of the interface against real RabbitMQs: `MICRO_TEST_RABBITMQ_URL` and
//! `MICRO_TEST_RABBITMQ_TLS_URL` (with a certificate of ours, and rights to our names alone) say where;
//! plain once more with ordered groups, and once more with classic queues.

mod common;

use std::process::ExitCode;

use micro_broker_core::Drivers;
use micro_broker_rabbitmq::RabbitDriver;
use micro_conformance::broker::Place;

fn main() -> ExitCode {
    let mut code = ExitCode::SUCCESS;
    for (variable, server, option) in [
        ("MICRO_TEST_RABBITMQ_URL", "rabbitmq", ""),
        ("MICRO_TEST_RABBITMQ_URL", "rabbitmq", "ordered=true"),
        ("MICRO_TEST_RABBITMQ_URL", "rabbitmq", "queues=classic"),
        ("MICRO_TEST_RABBITMQ_TLS_URL", "rabbitmq_tls", ""),
    ] {
        let test = format!("rabbitmq conformance {option}");
        let Some(url) = common::server(&test, variable, server) else {
            continue;
        };
        let url = common::with_option(&url, option);
        // One place is one namespace.
        let ran = micro_conformance::broker::run(async move |place: Place| {
            let drivers = Drivers::new().with(RabbitDriver::default());
            drivers.open(&url, place.env()).await
        });
        if ran != ExitCode::SUCCESS {
            code = ran;
        }
    }
    code
}
