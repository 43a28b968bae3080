-- The ERP of the example, in SQLite.
PRAGMA journal_mode = WAL;
CREATE TABLE customers (
    id VARCHAR(20) PRIMARY KEY NOT NULL, name VARCHAR(255) NOT NULL, city VARCHAR(40), country VARCHAR(80),
    revenue DECIMAL(18,2), address TEXT);
CREATE TABLE products (
    id VARCHAR(20) PRIMARY KEY NOT NULL, name VARCHAR(80) NOT NULL, family VARCHAR(40) NOT NULL, sold BOOLEAN NOT NULL,
    changed_at DATETIME NOT NULL);
CREATE TABLE orders (
    id VARCHAR(20) PRIMARY KEY NOT NULL, customer_id VARCHAR(20) NOT NULL, product_id VARCHAR(20) NOT NULL,
    quantity INTEGER NOT NULL, amount DECIMAL(18,2) NOT NULL, engraving VARCHAR(200), ordered_on DATE NOT NULL,
    stage VARCHAR(10) NOT NULL, changed_at DATETIME NOT NULL);
CREATE INDEX products_changed_at ON products (changed_at);
CREATE INDEX orders_changed_at ON orders (changed_at);
