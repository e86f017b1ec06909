from schemas.waiting_threads import make_way

make_way()
