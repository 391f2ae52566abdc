use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, PoisonError, RwLock};

use anyhow::{Context, Result};
use axum::Router;
use axum::http::{StatusCode, Uri};
use percent_encoding::percent_decode_str;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use crate::engine::block_on;
use crate::repository::Files;

/// An HTTP server for the files of one repository, gone when dropped.
#[derive(Debug)]
pub struct Server {
    port: u16,
    files: Arc<RwLock<Files>>,
    task: JoinHandle<()>,
}

impl Server {
    /// Starts a server without files, on a free port of `address`; where this host does not have that address (a bridge that
    /// is only made for the first container), on all of them.
    pub fn start(address: IpAddr) -> Result<Self> {
        let files = Arc::new(RwLock::new(Files::new()));
        let served = Arc::clone(&files);
        block_on(async move {
            let listener = match TcpListener::bind((address, 0)).await {
                Ok(listener) => listener,
                Err(_) => TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).await.context("no port to listen on")?,
            };
            let port = listener.local_addr()?.port();
            let router = Router::new().fallback(async move |uri: Uri| {
                let files = served.read().unwrap_or_else(PoisonError::into_inner);
                files.get(&decoded(uri.path())).cloned().ok_or(StatusCode::NOT_FOUND)
            });
            let task = tokio::spawn(async move {
                let _ = axum::serve(listener, router).await;
            });
            Ok(Self { port, files, task })
        })
    }

    /// The port it listens on.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Serves these files from now on, and no others.
    pub fn serve(&self, files: Files) {
        *self.files.write().unwrap_or_else(PoisonError::into_inner) = files;
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A path as it was before apt encoded it: `%2b` is a plus.
fn decoded(path: &str) -> String {
    percent_decode_str(path.trim_start_matches('/')).decode_utf8_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_decoded_as_apt_encodes_them() {
        assert_eq!(decoded("/pool/a_1%2bb1%7erc_all.deb"), "pool/a_1+b1~rc_all.deb");
        assert_eq!(decoded("/100%/%zz"), "100%/%zz");
    }
}
