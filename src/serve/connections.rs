use axum::Router;
use futures_util::future::{Either, select};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::site::Site;

/// Connections at a time; others wait until one is closed.
const MOST: usize = 1024;
/// In which the head of a request has to come.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);
/// After which another connection is waited for, where there was no memory or no file for one.
const PAUSE: Duration = Duration::from_millis(50);

/// Answers all who come until `stop` becomes true or its senders are gone, and then at most for
/// `grace` those who are there.
pub(super) async fn serve(
    listener: TcpListener,
    router: Router,
    site: Arc<Site>,
    mut stop: watch::Receiver<bool>,
    grace: Duration,
) {
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT);
    let graceful = GracefulShutdown::new();
    let mut connections = JoinSet::new();
    let places = Arc::new(Semaphore::new(MOST));
    {
        // It ends as well where nobody is left who could say so.
        let mut stopped = pin!(stop.wait_for(|stop| *stop));
        loop {
            let next = pin!(async {
                let place = places.clone().acquire_owned().await;
                (listener.accept().await, place)
            });
            let (accepted, place) = match select(next, stopped.as_mut()).await {
                Either::Left((next, _)) => next,
                Either::Right(_) => break,
            };
            while connections.try_join_next().is_some() {}
            let Ok((stream, _)) = accepted else {
                sleep(PAUSE).await;
                continue;
            };
            // Tokens are not to wait for each other.
            let _ = stream.set_nodelay(true);
            let service = TowerToHyperService::new(router.clone());
            let connection = http.serve_connection(TokioIo::new(stream), service);
            let connection = graceful.watch(connection);
            connections.spawn(async move {
                // One that breaks off is its client's business.
                let _ = connection.await;
                drop(place);
            });
        }
    }
    drop(listener);
    site.stopping.store(true, Ordering::SeqCst);
    let _ = timeout(grace, graceful.shutdown()).await;
    connections.shutdown().await;
}
