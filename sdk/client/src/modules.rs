//! Modules: uploading, listing, deleting.

use bytes::{Bytes, BytesMut};
use weir_core::limits;
use weir_core::module::Module;
use weir_core::module::name::ModuleRef;
use weir_core::wire::ErrorCode;
use weir_core::wire::message::{Request, Response};

use crate::admin::Admin;
use crate::client::unexpected;
use crate::error::RequestError;

/// How often an upload goes on after a part whose answer was lost, or after somebody else's part.
const UPLOAD_TRIES_MAX: u32 = 10;

impl Admin {
    /// All modules that the node knows, by name and version.
    ///
    /// # Errors
    /// [`RequestError`]
    pub async fn modules(&self) -> Result<Vec<Module>, RequestError> {
        match self.client.request(&Request::Modules {}).await? {
            Response::Modules { modules } => Ok(modules),
            _ => Err(unexpected()),
        }
    }

    /// Uploads a component and makes it known as `id`. An upload that was cut off goes on where it
    /// was; one that the node has already is not sent again. `progress` is told how many bytes the
    /// node has.
    ///
    /// # Errors
    /// [`RequestError`]; `invalid-module` with what is wrong with it, also where the name and
    /// version have other content.
    pub async fn push_module(
        &self,
        id: ModuleRef,
        component: Bytes,
        mut progress: impl FnMut(u64),
    ) -> Result<Module, RequestError> {
        let sha256 = sha256_of(&component);
        let bytes = component.len() as u64;
        let begin = Request::BeginUpload { sha256: sha256.clone(), bytes };
        let mut have = self.uploaded(&begin).await?;
        let mut tries = 0;
        while have < bytes {
            progress(have);
            let end = bytes.min(have + limits::UPLOAD_PART_BYTES_MAX as u64);
            let data = component.slice(have as usize..end as usize);
            let part = Request::Upload { sha256: sha256.clone(), at: have, data };
            have = match self.uploaded(&part).await {
                Ok(have) => have,
                // It may be there or not: ask.
                Err(error) if may_go_on(&error) && tries < UPLOAD_TRIES_MAX => {
                    tries += 1;
                    tracing::debug!(%error, have, "asking how far the upload is");
                    self.uploaded(&begin).await?
                }
                Err(error) => return Err(error),
            };
        }
        progress(have);
        // The node answers once the module is compiled, and may have other work beside.
        let compiling = 2 * limits::COMPILE_TIME_MAX;
        let push = Request::PushModule { id, sha256 };
        match self.client.request_with(&push, compiling).await? {
            Response::Modules { mut modules } => modules.pop().ok_or_else(unexpected),
            _ => Err(unexpected()),
        }
    }

    /// The bytes of a module that the node knows, checked against its hash.
    ///
    /// # Errors
    /// [`RequestError`]; `protocol` if what came is not the module.
    pub async fn module_bytes(&self, module: &Module) -> Result<Bytes, RequestError> {
        let mut bytes = BytesMut::new();
        while (bytes.len() as u64) < module.bytes {
            let (sha256, at) = (module.sha256.clone(), bytes.len() as u64);
            match self.client.request(&Request::ModulePart { sha256, at }).await? {
                Response::ModulePart { data } if !data.is_empty() => bytes.extend_from_slice(&data),
                _ => return Err(unexpected()),
            }
        }
        match sha256_of(&bytes) == module.sha256 {
            true => Ok(bytes.freeze()),
            false => Err(unexpected()),
        }
    }

    /// Forgets a module version. Subscriptions that run it go on until they end.
    ///
    /// # Errors
    /// [`RequestError`]; `unknown-module` if there is none.
    pub async fn delete_module(&self, id: ModuleRef) -> Result<(), RequestError> {
        self.ask_done(&Request::DeleteModule { id }).await
    }

    async fn uploaded(&self, request: &Request) -> Result<u64, RequestError> {
        match self.client.request(request).await? {
            Response::Upload { have } => Ok(have),
            _ => Err(unexpected()),
        }
    }
}

/// In hex.
fn sha256_of(bytes: &[u8]) -> String {
    let digest = ring::digest::digest(&ring::digest::SHA256, bytes);
    digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Whether an upload may go on after this: lost answers, and parts that do not continue.
fn may_go_on(error: &RequestError) -> bool {
    match error.code() {
        Some(code) => code.retryable() || code == ErrorCode::InvalidModule,
        None => true,
    }
}
