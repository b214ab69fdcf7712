//! The tables, made when they are not there.

use micro_postgres::{Connection, Failure, Pool, Query, Server};
use micro_store_core::{Durability, Result};

use crate::statements::{ALL, CREATE, FSYNC};

/// What others were making at the same time is there then, or will be in a moment: unique_violation,
/// duplicate_object, duplicate_table, and internal_error for PostgreSQL's "tuple concurrently updated".
const RACES: [&str; 4] = ["23505", "42710", "42P07", "XX000"];

/// undefined_table, which is said of sequences as well.
const MISSING: &str = "42P01";

/// Makes what is missing; many may do so at once. Answers which database it is, and what survives in it.
pub(crate) async fn prepare(pool: &Pool) -> Result<(Server, Durability)> {
    pool.attempt(|connection: Connection| async move {
        // First, since who may not make tables may still use those that are there.
        match fits(&connection).await {
            Err(failure) if is(&failure, &[MISSING]) => {
                for statement in CREATE {
                    if let Err(failure) = connection.run(statement).await {
                        return Err(match is(&failure, &RACES) {
                            true => failure.again(),
                            false => failure.harmless(),
                        });
                    }
                }
                fits(&connection).await?;
            }
            other => other?,
        }
        let server = connection.server();
        let durability = match server {
            Server::Cockroach => Durability::Quorum,
            _ if survives_power_cuts(&connection).await? => Durability::Power,
            _ => Durability::Process,
        };
        Ok((server, durability))
    })
    .await
}

/// Whether every statement can be run on the tables as they are.
async fn fits(connection: &Connection) -> Result<(), Failure> {
    for statement in ALL {
        connection.prepare(statement).await?;
    }
    Ok(())
}

async fn survives_power_cuts(connection: &Connection) -> Result<bool, Failure> {
    let rows = connection.query(&Query::new(FSYNC, Vec::new())).await;
    let rows = rows.map_err(Failure::harmless)?;
    let setting = rows
        .first()
        .and_then(|row| row.try_get::<_, String>(0).ok());
    Ok(setting.as_deref() != Some("off"))
}

fn is(failure: &Failure, codes: &[&str]) -> bool {
    failure
        .code()
        .is_some_and(|code| codes.contains(&code.code()))
}
