"""How a night with its blur is made from sharp photographs."""
