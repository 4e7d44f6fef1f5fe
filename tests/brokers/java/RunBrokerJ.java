import java.io.File;
import java.util.HashMap;
import java.util.Map;
import org.apache.qpid.server.SystemLauncher;

/** Runs the broker that init.json in the working directory describes; what it holds is gone with it. */
public class RunBrokerJ {
    public static void main(String[] arguments) throws Exception {
        Map<String, Object> attributes = new HashMap<>();
        attributes.put("type", "Memory");
        attributes.put("initialConfigurationLocation", new File("init.json").toURI().toURL().toExternalForm());
        attributes.put("startupLoggedToSystemOut", true);
        SystemLauncher launcher = new SystemLauncher();
        launcher.startup(attributes);
        Runtime.getRuntime().addShutdownHook(new Thread(launcher::shutdown));
        System.out.println("BROKER-J READY");
        Thread.currentThread().join();
    }
}
