//! `weir node --join`: this machine becomes a node of a cluster, once.

use crate::config::Settings;
use crate::exit::{Exit, Failure};
use crate::paths;
use weir_broker::cluster::joining::{self, JoinError, Membership};
use weir_core::wire::join::JoinToken;

/// What `weir node` was told about joining.
#[derive(Clone, Debug, clap::Args)]
pub struct JoinArgs {
    /// Join the cluster of the nodes at these addresses, separated by commas, with a token; later
    /// starts need neither
    #[arg(long, value_name = "ADDRESSES", requires = "token", value_delimiter = ',')]
    join: Vec<String>,
    /// The token that lets this machine in: `weir cluster token` on a node of the cluster prints
    /// one
    #[arg(long, value_name = "TOKEN", requires = "join")]
    token: Option<String>,
    /// Where the other nodes reach this one, host and port [default: where it listens, or the
    /// address that they see it at]
    #[arg(long, value_name = "HOST:PORT", requires = "join")]
    advertise: Option<String>,
}

impl JoinArgs {
    /// Joins, if that is asked for and was not done before.
    ///
    /// # Errors
    /// [`Failure`]. Another attempt goes on where this one stopped.
    pub async fn run(&self, settings: &Settings) -> Result<(), Failure> {
        let Some(token) = self.token.as_ref().filter(|_| !self.join.is_empty()) else {
            return Ok(());
        };
        let data_dir = paths::node_data_dir(settings).map_err(Failure::usage)?;
        let known = Membership::read(&data_dir).map_err(|error| failure(&error))?;
        if let Some(known) = known {
            tracing::info!(
                "--join is ignored: this folder is that of node {} ({})",
                known.node,
                known.name
            );
            return Ok(());
        }
        if !settings.members.is_empty() {
            let what = "--join and cluster.members exclude each other";
            return Err(Failure::usage(what).next("leave out cluster.members: the cluster has it"));
        }
        if data_dir.join("meta.redb").exists() {
            let what = format!("{} is the folder of a node that ran before", data_dir.display());
            return Err(Failure::new(Exit::Error, what).next("give an empty --data-dir DIR"));
        }
        let token: JoinToken =
            token.parse().map_err(|error| Failure::usage(format!("--token: {error}")))?;
        let name = paths::node_name(settings);
        let address = self.address(settings)?;
        let joined = joining::run(&data_dir, &self.join, &token, &name, &address).await;
        let joined = joined.map_err(|error| failure(&error))?;
        tracing::info!("joined the cluster as node {} ({name})", joined.node);
        Ok(())
    }

    fn address(&self, settings: &Settings) -> Result<String, Failure> {
        if let Some(address) = &self.advertise {
            return Ok(address.clone());
        }
        let listen = settings.listen;
        if listen.port() == 0 {
            let what = "a node of a cluster needs a port that stays: --listen with port 0";
            return Err(Failure::usage(what).next("give --listen ADDR:PORT, or --advertise"));
        }
        Ok(match listen.ip().is_unspecified() {
            true => format!(":{}", listen.port()),
            false => listen.to_string(),
        })
    }
}

fn failure(error: &JoinError) -> Failure {
    let what = format!("this node did not join: {error}");
    match error {
        JoinError::Unreachable(_) => Failure::new(Exit::Unreachable, what)
            .next("check the addresses and that UDP reaches them; the token is still good"),
        JoinError::Refused(_) => Failure::new(Exit::Refused, what),
        JoinError::AnotherCluster { .. } => Failure::new(Exit::Refused, what)
            .next("give the address of a node of the cluster where the token was made"),
        JoinError::Folder(_) | JoinError::File { .. } | JoinError::Answer(_) => {
            Failure::new(Exit::Error, what)
        }
    }
}
