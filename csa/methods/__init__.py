"""One file per method or small family; losses and mixing rules as pure functions beside them."""
