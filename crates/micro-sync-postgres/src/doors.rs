//! Who of this process asks for a name: one at a time.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::sync::Notify;

use crate::table::Key;

/// Beyond so many names, those that nobody has to do with are looked for and forgotten.
const TIDY: usize = 256;

/// Before a name: however many of a process wait for it, one of them asks the database.
#[derive(Debug, Default)]
pub(crate) struct Door {
    /// Held by the one who asks; the others stand in a queue, in the order in which they came.
    pub(crate) turn: tokio::sync::Mutex<()>,
    /// One of this process has let go of the name.
    pub(crate) freed: Notify,
}

#[derive(Debug, Default)]
pub(crate) struct Doors(Mutex<HashMap<Arc<Key>, Weak<Door>>>);

impl Doors {
    pub(crate) fn of(&self, key: &Arc<Key>) -> Arc<Door> {
        let mut doors = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(door) = doors.get(key).and_then(Weak::upgrade) {
            return door;
        }
        if doors.len() >= TIDY {
            doors.retain(|_, door| door.strong_count() > 0);
        }
        let door = Arc::new(Door::default());
        doors.insert(Arc::clone(key), Arc::downgrade(&door));
        door
    }
}
