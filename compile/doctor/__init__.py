"""What a compiler can expect of this machine: what is installed, and from which sparsity on zeros pay."""
