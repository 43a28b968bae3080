//! The traits an endpoint implements, its capabilities, and the contract suite.
