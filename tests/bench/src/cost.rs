//! Calls and sequential hops per operation, as the appliance counts them.

use anyhow::Context;
use harness::orchestrator::GIB;
use tonic::Status;
use uuid::Uuid;

use crate::chain::Chain;
use crate::protocol::{Cost, Protocol};
use crate::table::Table;

/// How often each operation is counted; the largest count is the figure.
const ROUNDS: u32 = 3;

/// Counts of the operations of one protocol.
#[derive(Debug)]
struct Counts {
    create: Count,
    first_publish: Count,
    publish: Count,
    unpublish: Count,
    expand: Count,
    delete: Count,
}

/// The largest count of an operation and what it consisted of.
#[derive(Clone, Debug)]
struct Count {
    cost: Cost,
    methods: String,
}

/// Adds the rows of one protocol.
pub async fn measure(chain: &Chain, protocol: &Protocol, table: &mut Table) {
    let counts = count(chain, protocol).await;
    let mut row = |name: &str, bound: Cost, of: fn(&Counts) -> &Count| match &counts {
        Ok(counts) => {
            let Count { cost, methods } = of(counts);
            table.row(name, cost.to_string(), bound.to_string(), cost.within(bound), Some(methods.clone()));
        }
        Err(error) => table.missing(name, bound.to_string(), error),
    };
    row("CreateVolume", protocol.create, |counts| &counts.create);
    row("ControllerPublishVolume, a node's first", protocol.first_publish, |counts| &counts.first_publish);
    row("ControllerPublishVolume, a later one", protocol.publish, |counts| &counts.publish);
    row("ControllerUnpublishVolume", protocol.unpublish, |counts| &counts.unpublish);
    row("ControllerExpandVolume", protocol.expand, |counts| &counts.expand);
    row("DeleteVolume", protocol.delete, |counts| &counts.delete);
}

async fn count(chain: &Chain, protocol: &Protocol) -> anyhow::Result<Counts> {
    // What is read once per process (ports, portals) belongs to no operation.
    let mut most = round(chain, protocol, u32::MAX).await.context("the first round")?;
    for number in 0..ROUNDS {
        let counts = round(chain, protocol, number).await.with_context(|| format!("round {number}"))?;
        most = if number == 0 { counts } else { most.max(counts) };
    }
    Ok(most)
}

/// The lives of two volumes on a node that the appliance has never seen.
async fn round(chain: &Chain, protocol: &Protocol, number: u32) -> anyhow::Result<Counts> {
    let class = protocol.class();
    let node = node_id();
    let name = |volume: &str| format!("bench-cost-{}-{number}-{volume}", protocol.name);
    let work = &chain.orchestrator;
    let (first, create) = counted(chain, "CreateVolume", work.create(&name("a"), &class, GIB)).await?;
    let (second, create_again) = counted(chain, "CreateVolume", work.create(&name("b"), &class, GIB)).await?;
    let publish = "ControllerPublishVolume";
    let (_, first_publish) = counted(chain, publish, work.attach(&first, &node)).await?;
    let (_, later_publish) = counted(chain, publish, work.attach(&second, &node)).await?;
    let unpublish = "ControllerUnpublishVolume";
    let ((), taken) = counted(chain, unpublish, work.detach(&first, &node)).await?;
    let ((), taken_again) = counted(chain, unpublish, work.detach(&second, &node)).await?;
    let (_, expand) = counted(chain, "ControllerExpandVolume", work.expand(&first, 2 * GIB)).await?;
    let ((), delete) = counted(chain, "DeleteVolume", work.delete(&first)).await?;
    let ((), delete_again) = counted(chain, "DeleteVolume", work.delete(&second)).await?;
    Ok(Counts {
        create: create.max(create_again),
        first_publish,
        publish: later_publish,
        unpublish: taken.max(taken_again),
        expand,
        delete: delete.max(delete_again),
    })
}

async fn counted<T>(
    chain: &Chain,
    what: &str,
    operation: impl Future<Output = Result<T, Status>>,
) -> anyhow::Result<(T, Count)> {
    chain.control.reset_figures().await?;
    let result = operation.await.with_context(|| what.to_owned())?;
    let figures = chain.control.figures().await?;
    let methods: Vec<String> = figures.methods.iter().map(|(method, n)| format!("{method} × {n}")).collect();
    let cost = Cost { calls: figures.calls, hops: figures.hops };
    Ok((result, Count { cost, methods: methods.join(", ") }))
}

/// Id of a node that nobody has seen, in the form that a node agent gives: name, host UUID, storage address.
pub fn node_id() -> String {
    let host = Uuid::new_v4().simple();
    format!("bench-{};{host};192.0.2.10", &host.to_string().get(..8).unwrap_or_default())
}

impl Count {
    fn max(self, other: Count) -> Count {
        let cost = self.cost.max(other.cost);
        let methods = if other.cost.calls > self.cost.calls { other.methods } else { self.methods };
        Count { cost, methods }
    }
}

impl Counts {
    fn max(self, other: Counts) -> Counts {
        Counts {
            create: self.create.max(other.create),
            first_publish: self.first_publish.max(other.first_publish),
            publish: self.publish.max(other.publish),
            unpublish: self.unpublish.max(other.unpublish),
            expand: self.expand.max(other.expand),
            delete: self.delete.max(other.delete),
        }
    }
}
