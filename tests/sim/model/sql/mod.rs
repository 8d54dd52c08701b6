//! The dialect: a small part of SQL that PostgreSQL understands in the same way.

pub mod ast;
pub mod lexer;
mod parser;

pub use parser::parse;
