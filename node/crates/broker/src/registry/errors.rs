//! Refusals and failures of metadata, as clients are told.

use crate::store::StoreError;
use weir_core::deploy::DeployError;
use weir_core::metadata::{CheckError, MetadataError};
use weir_core::module::ModuleError;
use weir_core::wire::{ErrorCode, WireError};

/// A refused change of metadata, as a client is told.
#[must_use]
pub fn metadata_error(error: MetadataError) -> WireError {
    let code = match &error {
        MetadataError::Exists(_) => ErrorCode::TopicExists,
        MetadataError::Unknown(_) => ErrorCode::UnknownTopic,
        MetadataError::Topic(_) => ErrorCode::InvalidArgument,
        MetadataError::Limit => ErrorCode::LimitReached,
        MetadataError::Module(module) => match module {
            ModuleError::Unknown(_) => ErrorCode::UnknownModule,
            ModuleError::Limit => ErrorCode::LimitReached,
            _ => ErrorCode::InvalidModule,
        },
        MetadataError::Check(error) => match error {
            CheckError::Module(ModuleError::Unknown(_)) => ErrorCode::UnknownModule,
            CheckError::Module(_) | CheckError::Kind { .. } => ErrorCode::InvalidModule,
            CheckError::ModuleInUse { .. } => ErrorCode::InUse,
        },
        MetadataError::Deploy(error) => match error {
            DeployError::Unknown(_) => ErrorCode::UnknownDeployment,
            DeployError::Exists(_) => ErrorCode::DeploymentExists,
            DeployError::UnknownTopic(_) => ErrorCode::UnknownTopic,
            DeployError::Limit => ErrorCode::LimitReached,
            DeployError::Module(ModuleError::Unknown(_)) => ErrorCode::UnknownModule,
            DeployError::Module(_) | DeployError::Kind { .. } => ErrorCode::InvalidModule,
            DeployError::Partitions { .. }
            | DeployError::TopicInUse { .. }
            | DeployError::ModuleInUse { .. }
            | DeployError::Ending(_) => ErrorCode::InUse,
            _ => ErrorCode::InvalidArgument,
        },
    };
    WireError::new(code, error.to_string())
}

/// A failed write of the node's notes, as a client is told.
#[must_use]
pub fn store_error(error: &StoreError) -> WireError {
    tracing::error!(%error, "the node's metadata could not be written");
    WireError::unknown(ErrorCode::Internal, format!("the node's metadata: {error}"))
}
