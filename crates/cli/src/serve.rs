//! The admin API of a project.

use model::Class;
use server::Server;

use crate::Failure;
use crate::commands::stop_on_interrupt;
use crate::project::Project;

/// Answers the admin API until Ctrl-C.
pub(crate) async fn serve(project: Project, port: u16) -> Result<(), Failure> {
    let started = Server::start(project.store, ([127, 0, 0, 1], port).into()).await;
    let server = started.map_err(|error| Failure::from_error(Class::Mapping, &error))?;
    println!("http://{}/api/v1/streams says what followed syncs do. Ctrl-C stops it.", server.address());
    stop_on_interrupt().cancelled().await;
    server.stop().await;
    Ok(())
}
