"""30-web-language."""

import os
import unittest

from standin import Exchange

HOOK = "30-web-language"


class WebLanguage(Exchange):
    def put(self, content):
        with open(self.ini, "wb") as file:
            file.write(content)

    def content(self):
        with open(self.ini, "rb") as file:
            return file.read()

    def test_french_becomes_english_and_all_else_stays(self):
        before = self.content()
        os.chmod(self.ini, 0o640)
        self.assert_done(self.run_hook(HOOK), "the language is now en_US")
        wanted = before.replace(b"language = fr\nterritory = FR\n", b"language = en\nterritory = US\n")
        self.assertEqual(self.content(), wanted)
        self.assertIn(b"language = fr", wanted, "the language of another section stays")
        found = os.stat(self.ini)
        self.assertEqual(found.st_mode & 0o7777, 0o640)
        self.assert_done(self.run_hook(HOOK), "the language stays en_US")
        again = os.stat(self.ini)
        self.assertEqual((again.st_ino, again.st_mtime_ns), (found.st_ino, found.st_mtime_ns), "the second run wrote")
        self.assertEqual([name for name in os.listdir(self.directory) if name.startswith(".")], [])

    def test_the_format_of_the_file_stays(self):
        for before, after in [
            (b"[general]\r\nterritory=FR\r\nlanguage=fr\r\n", b"[general]\r\nterritory=US\r\nlanguage=en\r\n"),
            (b'[ general ]\n  language = "fr" ; \xe9\n\tterritory="FR"', b'[ general ]\n  language = "en" ; \xe9\n\tterritory="US"'),
            (b"[general]\nlanguage=fr;x\n[a]\n[general]\nterritory=FR\n", b"[general]\nlanguage=en;x\n[a]\n[general]\nterritory=US\n"),
            (b"[general]\nlanguage=de\nlanguage=fr\nterritory=FR\n", b"[general]\nlanguage=de\nlanguage=en\nterritory=US\n"),
        ]:
            self.put(before)
            self.assert_done(self.run_hook(HOOK), "is now en_US")
            self.assertEqual(self.content(), after)

    def test_another_choice_stays(self):
        for content in [
            b"[general]\nlanguage = de\nterritory = DE\n",
            b"[general]\nlanguage = fr\nterritory = CA\n",
            b"[general]\nlanguage = fr\n",
            b"[general]\n;language = fr\n;territory = FR\n",
            b"[general]\nlanguage = french\nterritory = FR\n",
            b"[other]\nlanguage = fr\nterritory = FR\n",
            b"",
        ]:
            self.put(content)
            self.assert_done(self.run_hook(HOOK), "the language stays ")
            self.assertEqual(self.content(), content)

    def test_a_link_stays_a_link(self):
        os.rename(self.ini, self.path("real.ini"))
        os.symlink("real.ini", self.ini)
        self.assert_done(self.run_hook(HOOK), "is now en_US")
        self.assertTrue(os.path.islink(self.ini))
        self.assertIn(b"territory = US", self.content())

    def test_a_link_that_another_user_could_have_made_is_not_followed(self):
        os.mkdir(self.path("theirs"))
        os.rename(self.ini, self.path("theirs/real.ini"))
        os.symlink("real.ini", self.path("theirs/link.ini"))
        os.chmod(self.path("theirs"), 0o777)
        for link in ["theirs/link.ini", "theirs/../theirs/link.ini"]:
            if os.path.islink(self.ini):
                os.unlink(self.ini)
            os.symlink(link, self.ini)
            self.assert_failed(self.run_hook(HOOK), self.ini)
        self.assertIn(b"territory = FR", self.content())

    def test_a_pipe_or_a_device_stops_nothing(self):
        os.unlink(self.ini)
        os.mkfifo(self.ini)
        self.assert_failed(self.run_hook(HOOK), "it is not a regular file")
        os.unlink(self.ini)
        os.symlink("/dev/zero", self.ini)
        self.assert_failed(self.run_hook(HOOK), "it is not a regular file")

    def test_a_machine_without_web_interface_is_not_applicable(self):
        os.unlink(self.ini)
        self.assert_not_applicable(self.run_hook(HOOK), "there is no web interface")

    def test_an_unreadable_file_is_reported(self):
        os.unlink(self.ini)
        os.mkdir(self.ini)
        self.assert_failed(self.run_hook(HOOK), self.ini)


if __name__ == "__main__":
    unittest.main()
