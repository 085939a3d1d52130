"""Tables of nets and weights."""
