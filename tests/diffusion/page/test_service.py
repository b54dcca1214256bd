"""The page of the service, in a browser, against the service itself."""

from __future__ import annotations

import json
import threading
from io import BytesIO

import numpy as np
import pytest
from PIL import Image, UnidentifiedImageError

import diffusion
from diffusion import DiffusionError
from tests.support.browser import shown, visiting

serve = pytest.importorskip("diffusion.serve.app", reason="needs the extra serve")
uvicorn = pytest.importorskip("uvicorn", reason="needs the extra serve")
from diffusion.serve.collection import Collection  # noqa: E402
from diffusion.serve.security import Settings  # noqa: E402

HOSTILE = "<img src=x onerror=document.title='hit'>.png"
# The name of a file that is no UTF-8, as Python has it.
BYTES = "\udcff\udc80 caf\u00e9.png"
TOKEN = "a-secret-of-the-tests"
# Beyond the integers that the numbers of JavaScript hold.
LARGE = (1 << 60) + 1


class Colours:
    """Photos of one colour each, whose vectors are their colours."""

    def __init__(self, vectors, names):
        self.colours = {
            name: tuple(row) for name, row in zip(names, as_colours(vectors), strict=True)
        }

    def describe(self, files):
        try:
            pixels = [np.asarray(Image.open(BytesIO(file)).convert("RGB"))[0, 0] for file in files]
        except UnidentifiedImageError:
            raise DiffusionError("photo: expected a picture of one colour") from None
        return np.stack(pixels).astype(np.float32) / 127.5 - 1

    def picture(self, id):
        return photo(self.colours[id], "JPEG") if id in self.colours else None

    def name(self, id):
        return f"{id}!"


def as_colours(vectors):
    return np.round((np.asarray(vectors) / 1.6 + 1) * 127.5).astype(int).clip(0, 255)


def photo(colour, kind="PNG"):
    file = BytesIO()
    Image.new("RGB", (40, 30), tuple(map(int, colour))).save(file, kind)
    return file.getvalue()


@pytest.fixture(scope="module")
def served(arcs, names, ranker, tmp_path_factory):
    """The addresses of services: of photos, with a token, of vectors, and with hostile ids."""
    X, _ = arcs
    folder = tmp_path_factory.mktemp("served")
    ranker.save(folder / "photos")
    numbers = LARGE + 2 * np.arange(len(X))
    diffusion.Reranker(k=12, query_k=4, affinity="cosine").fit(X, ids=numbers).save(folder / "n")
    names = [*names[:-4], BYTES, *names[-3:-1], HOSTILE]
    diffusion.Reranker(k=12, query_k=4).fit(X, ids=names).save(folder / "hostile")
    photos = Colours(X, names)
    apps = {
        "photos": ("photos", Settings(title="Photos of arcs"), photos),
        "token": ("photos", Settings(token=TOKEN), photos),
        "numbers": ("n", Settings(), None),
        "hostile": ("hostile", Settings(title=HOSTILE), None),
        "hostile photos": ("hostile", Settings(), photos),
    }
    servers, addresses = [], {}
    for index, settings, pictures in apps.values():
        app = serve.create_app(Collection(folder / index), settings=settings, photos=pictures)
        config = uvicorn.Config(app, host="127.0.0.1", port=0, log_level="error")
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, daemon=True)
        thread.start()
        servers.append((server, thread))
    for name, (server, thread) in zip(apps, servers, strict=True):
        while not server.started:
            assert thread.is_alive()
            thread.join(0.01)
        addresses[name] = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}/"
    yield addresses
    for server, _ in servers:
        server.should_exit = True
    for _, thread in servers:
        thread.join()


def upload(view, content, name="mine.png"):
    view.wait_for_selector("#upload:visible")  # else a file is set before anything listens
    view.get_by_label("Search by photo").set_input_files(
        {"name": name, "mimeType": "image/png", "buffer": content}
    )


def results(view):
    """The names after diffusion, once the service has answered."""
    view.wait_for_selector("#results:not([aria-busy]) #after li")
    return [name for _, name in shown(view, "after")]


@pytest.fixture(scope="module")
def colour(arcs):
    """A colour near the end of an arc, and its vector."""
    colour = as_colours(arcs[1][:1])[0]
    return colour, (colour / np.float32(127.5) - 1).astype(np.float32)


def test_a_photo_is_uploaded_searched_with_and_explained(browser, served, ranker, colour):
    with visiting(browser, served["photos"]) as view:
        assert view.title() == "Photos of arcs"
        assert not view.locator("#results").is_visible()
        upload(view, photo(colour[0]), HOSTILE)
        assert results(view) == [f"{name}!" for name in ranker.search(colour[1], 12)[1]]
        assert view.locator("#name").inner_text() == HOSTILE
        frames = view.locator("#results img")
        sizes = frames.evaluate_all(
            "(images) => Promise.all(images.map((i) => i.decode().then(() => i.naturalWidth)))"
        )
        assert sizes == [40] * 25
        percent = round(100 * float(ranker.report_.confidence[0]))
        assert f"Confidence {percent}\N{NO-BREAK SPACE}%" in view.get_by_role("status").inner_text()
        result = view.locator("#after .result").last
        name = result.locator(".name").inner_text()
        result.click()
        dialog = view.get_by_role("dialog", name=name)
        dialog.locator(".chain").first.wait_for()
        expected = ranker.explain(colour[1], name[:-1])
        assert dialog.locator(".chain").count() == len(expected.chains)
        told = dialog.locator(".chain").first.locator(".name").all_inner_texts()
        assert told == ["query", *(f"{id}!" for id in expected.chains[0].ids)]
        assert f"First stage: place {expected.first_rank}." in dialog.inner_text()
        # More like this result, and more of them.
        dialog.get_by_role("button", name="More like this").click()
        view.get_by_role("heading", name=f"Like {name}").wait_for()
        item = int(np.flatnonzero(ranker.ids_ == name[:-1])[0])
        like = ranker.search(ranker.fitted().index.vectors[item], 101)[1].tolist()
        like = [f"{other}!" for other in like if other != name[:-1]]
        assert results(view) == like[:12]
        assert view.evaluate("document.activeElement.id") == "results"
        # An explanation counts places as the list does.
        view.locator("#after .result").nth(4).click()
        view.get_by_role("dialog").get_by_text("After diffusion: place 5,").wait_for()
        view.keyboard.press("Escape")
        view.get_by_role("button", name="Show more").click()
        assert results(view) == like[:24]
        assert view.evaluate("document.activeElement.closest('li').previousSibling !== null")


def test_a_photo_that_is_dropped_is_searched_with(browser, served, ranker, colour):
    with visiting(browser, served["photos"]) as view:
        view.wait_for_selector("#upload:visible")
        moved = view.evaluate_handle(
            """(bytes) => {
                const moved = new DataTransfer();
                moved.items.add(new File([new Uint8Array(bytes)], "dropped.png"));
                return moved;
            }""",
            list(photo(colour[0])),
        )
        view.dispatch_event("body", "dragover", {"dataTransfer": moved})
        assert view.locator("body.dropping").count() == 1
        view.dispatch_event("body", "drop", {"dataTransfer": moved})
        assert results(view) == [f"{name}!" for name in ranker.search(colour[1], 12)[1]]
        assert view.locator("#name").inner_text() == "dropped.png"
        assert view.locator("body.dropping").count() == 0


def test_sliders_and_filter_ask_the_service(browser, served, arcs, names, ranker, colour):
    with visiting(browser, served["photos"]) as view:
        upload(view, photo(colour[0]))
        before = results(view)
        view.locator("#query_k").focus()
        with view.expect_response("**/search") as sent:
            view.keyboard.press("Home")
        assert json.loads(sent.value.request.post_data)["query_k"] == 1
        view.locator("#weight").focus()
        with view.expect_response("**/search") as sent:
            view.keyboard.press("Home")
        assert json.loads(sent.value.request.post_data)["weight"] == 0
        other = diffusion.Reranker(k=12, query_k=1, score=diffusion.Fusion(0)).fit(
            arcs[0], ids=names
        )
        expected = other.search(colour[1], 12)[1]
        fresh = next(name for name in expected if f"{name}!" not in before)
        view.locator("#after", has_text=fresh).wait_for()
        assert results(view) == [f"{name}!" for name in expected]
        view.get_by_role("button", name="Settings of the index").click()
        view.wait_for_selector("#reset", state="hidden")
        assert results(view) == before
        # The service filters, so that the results are not fewer.
        view.get_by_label("Only names that contain").fill("RIGHT/")
        view.locator("#sides", has_text="left/").wait_for(state="detached")
        allow = [name for name in names if "right/" in name]
        expected = ranker.search(colour[1], 12, allow=allow)[1]
        assert results(view) == [f"{name}!" for name in expected]


def test_the_service_says_what_is_wrong(browser, served, colour):
    # Two searches, and the picture of an item that does not exist.
    with visiting(browser, served["photos"], refused=3) as view:
        upload(view, b"no photo")
        alert = view.get_by_role("alert")
        alert.get_by_text("photo: expected a picture of one colour").wait_for()
        view.get_by_label("More like an item").fill("absent")
        view.get_by_role("button", name="Search", exact=True).click()
        alert.get_by_text("items: expected the id of an item, got 'absent'").wait_for()
        upload(view, photo(colour[0]))
        assert len(results(view)) == 12
        assert alert.inner_text() == ""


def test_vectors_and_ids_of_64_bits(browser, served, arcs):
    ids = LARGE + 2 * np.arange(120)
    ranker = diffusion.Reranker(k=12, query_k=4, affinity="cosine").fit(arcs[0], ids=ids)
    with visiting(browser, served["numbers"], refused=1) as view:
        box = view.get_by_label("Search by vector (3 numbers)")
        search = view.locator("#paste").get_by_role("button", name="Search")
        box.fill(str(arcs[1][0].tolist()))
        search.click()
        found = ranker.search(arcs[1][0], 12)[1].tolist()
        assert results(view) == [str(id) for id in found]
        assert not view.locator("#weight").is_visible()  # no fusion has none
        assert "Confidence" not in view.locator("#status").inner_text()
        view.locator("#after .result").nth(3).click()
        view.locator("#explanation .chain").first.wait_for()
        view.keyboard.press("Escape")
        view.get_by_label("More like an item").fill(str(found[3]))
        view.locator("#like").get_by_role("button", name="Search").click()
        view.get_by_role("heading", name=f"Like {found[3]}").wait_for()
        row = int(np.flatnonzero(ids == found[3])[0])
        like = [id for id in ranker.search(arcs[0][row], 13)[1].tolist() if id != found[3]]
        assert results(view) == [str(id) for id in like]
        # What is wrong is said, by the service or by the page itself.
        alert = view.get_by_role("alert")
        box.fill("1, 2")
        search.click()
        alert.get_by_text("vectors: expected").wait_for()
        box.fill("1, x, 3")
        search.click()
        alert.get_by_text("“x” is not a number.").wait_for()
        view.get_by_label("More like an item").fill("1.5")
        view.locator("#like").get_by_role("button", name="Search").click()
        alert.get_by_text("“1.5” is no integer, as ids here are.").wait_for()


def test_a_busy_service_is_asked_again(browser, served, colour, ranker):
    with visiting(browser, served["photos"], refused=2) as view:
        refusals = iter([503, None])

        def once(route):
            status = next(refusals)
            if status is None:
                route.abort()
            else:
                route.fulfill(status=status, json={"detail": "too many requests wait"})

        view.route("**/photos", once, times=2)
        upload(view, photo(colour[0]))
        alert = view.get_by_role("alert")
        alert.get_by_text("The service is busy").wait_for()
        assert "too many requests wait" in alert.inner_text()
        alert.get_by_role("button", name="Try again").click()
        alert.get_by_text("The service cannot be reached.").wait_for()
        alert.get_by_role("button", name="Try again").click()
        assert results(view) == [f"{name}!" for name in ranker.search(colour[1], 12)[1]]
        assert alert.inner_text() == ""


def test_the_token_is_asked_for_and_sent_as_a_header_only(browser, served, colour, ranker):
    with visiting(browser, served["token"], refused=2) as view:
        asked = []
        view.on("request", lambda request: asked.append(request))
        for secret in ("wrong", TOKEN):
            view.get_by_label("Token of the service").fill(secret)
            view.get_by_role("button", name="Continue").click()
            if secret == "wrong":
                view.wait_for_selector("#alert p")
        upload(view, photo(colour[0]))
        assert results(view) == [f"{name}!" for name in ranker.search(colour[1], 12)[1]]
        view.locator("#sides img").nth(23).wait_for()  # each is fetched before it is put there
        sources = view.locator("#sides img").evaluate_all(
            "(images) => Promise.all(images.map((i) => i.decode().then(() => i.src)))"
        )
        assert len(sources) == 24
        assert all(source.startswith("blob:") for source in sources)
        assert not any(TOKEN in request.url for request in asked)
        assert view.evaluate("localStorage.length + sessionStorage.length") == 0
        assert view.context.cookies() == []


def test_hostile_ids_stay_text(browser, served, arcs):
    with visiting(browser, served["hostile"]) as view:
        view.get_by_label("More like an item").fill(HOSTILE)
        view.locator("#like").get_by_role("button", name="Search").click()
        view.get_by_role("heading", name=f"Like {HOSTILE}").wait_for()
        near = results(view)[0]
        view.get_by_label("More like an item").fill(near)
        view.locator("#like").get_by_role("button", name="Search").click()
        view.get_by_role("heading", name=f"Like {near}").wait_for()
        assert HOSTILE in results(view)
        view.get_by_role("button", name=HOSTILE).last.click()
        view.locator("#explanation .chain").first.wait_for()
        assert view.title() == HOSTILE
        assert view.locator("img").count() == 0


def test_pictures_are_shown_whatever_the_names_of_their_files(browser, served):
    with visiting(browser, served["hostile photos"]) as view:
        view.get_by_label("More like an item").fill(HOSTILE)
        view.locator("#like").get_by_role("button", name="Search").click()
        button = view.locator("#after .result").filter(has_text="caf\u00e9.png")
        button.locator("img").wait_for()
        button.locator("img").evaluate("image => image.decode()")
        assert all("no photo" not in text for text in view.locator("#after").all_inner_texts())
        assert view.locator("#alert").inner_text() == ""


@pytest.mark.slow
@pytest.mark.parametrize(("width", "scheme"), [(360, "dark"), (1280, "light")])
@pytest.mark.parametrize("name", ["photos", "numbers", "token"])
def test_nothing_overflows(browser, served, width, scheme, name):
    refused = 1 if name == "token" else 0
    how = {"width": width, "color_scheme": scheme, "refused": refused}
    with visiting(browser, served[name], **how) as view:
        view.wait_for_selector("#token:visible, #like:visible")
        assert not view.evaluate("document.documentElement.scrollWidth > innerWidth")
