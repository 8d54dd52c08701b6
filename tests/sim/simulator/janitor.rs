//! What becomes of connections that nobody uses, as `upstream::janitor` and `upstream::pool::maintenance` have it.

use std::rc::Rc;

use pgferry::internals::config::Reset;
use pgferry::internals::track::session_code::Due;

use super::link;
use super::pool::Pool;
use super::world::World;

/// How many rounds it makes at most, so that a run in which nothing else happens ends.
const MOST_ROUNDS: usize = 200;

/// Looks after idle connections until all clients have been served.
pub async fn run(world: Rc<World>) {
    for _ in 0..MOST_ROUNDS {
        if world.served.get() == world.clients.len() {
            return;
        }
        let until = world.now() + world.setup.janitor;
        world.timeout(until, std::future::pending::<()>()).await;
        let pools = world.pools.borrow().clone();
        for pool in &pools {
            tidy(&world, pool);
        }
    }
}

fn tidy(world: &Rc<World>, pool: &Rc<Pool>) {
    let resets = matches!(world.setup.reset, Reset::Always | Reset::Auto);
    for mut link in pool.take_all() {
        let age = world.now() - link.returned;
        if link.is_too_old() || (world.setup.idle > 0 && age >= world.setup.idle) || !link.look() {
            link::close(link);
            continue;
        }
        world.catalogs.look(link.state.code.code(), Due::Past, world.now());
        if link.needs_reset() && age >= world.setup.janitor {
            world.spawn(format!("resets link {}", link.number()), async move {
                if let Some(link) = link::reset(link).await {
                    link.release_as_it_is();
                }
            });
        } else {
            link.release_as_it_is();
        }
    }
    if resets {
        pool.reset_tentative_leases(world, world.setup.janitor);
    }
}
