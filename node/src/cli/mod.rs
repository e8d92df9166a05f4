//! The command line.

<<<<<<< HEAD
pub mod check;
pub mod init;
=======
pub mod status;
>>>>>>> admin
