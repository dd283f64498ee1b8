//! `/cluster`: which nodes there are, and which slots each holds.

use poem_openapi::{Object, OpenApi};
use serde::Serialize;
use uuid::Uuid;

use super::Tag;
use super::body::Json;
use super::words::Time;
use crate::http::problem::Problem;
use crate::service::{Access, Service};
use posthorn_domain::cluster;

pub(super) struct Cluster {
    pub(super) service: Service,
}

/// The nodes that work on one database.
#[derive(Serialize, Object)]
#[oai(rename = "Cluster")]
struct ClusterView {
    /// The node that answers.
    node: Uuid,
    /// All that were heard of lately, the oldest first; the first thousand of them.
    #[oai(validator(max_items = "1000"))]
    nodes: Vec<Node>,
    /// Slots that no node holds now: nothing is sent for the subscriptions whose ids end with these bytes.
    #[oai(validator(max_items = "256"))]
    slots_without_node: Vec<u8>,
}

/// A running process.
#[derive(Serialize, Object)]
struct Node {
    /// Chosen at its start.
    id: Uuid,
    /// Host and process, for people.
    #[oai(validator(max_length = "100"))]
    name: String,
    /// Of its program.
    #[oai(validator(max_length = "64"))]
    version: String,
    /// When it started.
    started_at: Time,
    /// Since it was heard of last; twenty leases later it is forgotten.
    #[oai(validator(minimum(value = "0"), maximum(value = "12000")))]
    heartbeat_age_seconds: f64,
    /// It hands its slots over and takes none.
    leaving: bool,
    /// What it holds of the 256 slots: it sends for the subscriptions whose ids end with these bytes.
    #[oai(validator(max_items = "256"))]
    slots: Vec<u8>,
}

#[OpenApi(tag = "Tag::Cluster")]
impl Cluster {
    /// Show the nodes and what each holds
    ///
    /// Any node takes any event; it is sent by the node that holds its subscription's slot. On SQLite there is one
    /// node, which holds all of them.
    #[oai(path = "/cluster", method = "get", operation_id = "getCluster")]
    async fn show(&self, access: Access) -> Result<Json<ClusterView>, Problem> {
        let (node, cluster) = self.service.cluster(&access).await?;
        let nodes = cluster.nodes.iter().map(|node| Node::new(node, &cluster.slots)).collect();
        let nobodys = cluster.slots.iter().filter(|holder| holder.node.is_none());
        let slots_without_node = nobodys.map(|holder| holder.slot.0).collect();
        Ok(Json(ClusterView { node: node.0, nodes, slots_without_node }))
    }
}

impl Node {
    fn new(node: &cluster::Node, slots: &[cluster::Holder]) -> Self {
        let held = slots.iter().filter(|holder| holder.node == Some(node.id));
        Self {
            id: node.id.0,
            name: node.name.clone(),
            version: node.version.clone(),
            started_at: Time(node.started_at),
            heartbeat_age_seconds: node.silent_for.as_secs_f64().min(12_000.0),
            leaving: node.leaving,
            slots: held.map(|holder| holder.slot.0).collect(),
        }
    }
}
