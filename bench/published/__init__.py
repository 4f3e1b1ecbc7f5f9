"""The measurements that the repository carries, and README's tables, which are made from them."""
