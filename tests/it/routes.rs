//! Routes: an insert, an update or a delete on a table becomes an event, or says why not.

mod adopted;
mod commands;
mod consent;
mod denied;
mod faults;
mod feedback;
mod gate;
mod kept;
mod locks;
mod policies;
mod roles;
mod shapes;
mod stage;
mod traces;
