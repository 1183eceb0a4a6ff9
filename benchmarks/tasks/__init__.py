"""Small modern tasks: one configuration of every optimizer for all of them, from several rates."""
