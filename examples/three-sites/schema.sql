-- The same tables at every site, before its node starts.
create table products (
    id bigint primary key,
    name text not null,
    price numeric not null check (price >= 0)
);
create table customers (
    id bigint primary key,
    email text not null unique,
    name text not null
);
