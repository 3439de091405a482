"""Night blur made from sharp photographs."""
